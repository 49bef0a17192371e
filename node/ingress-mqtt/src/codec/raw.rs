//! A bounds-checked look at raw packets, for what has to be known before or beside the parser.

use super::{DecodeError, Version};
use std::ops::Range;

/// Message Expiry Interval.
const MESSAGE_EXPIRY: u8 = 0x02;

/// Reads a Variable Byte Integer at the front: value and bytes taken, `None` if more bytes are needed.
pub(super) fn variable_length(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::Malformed("length of more than four bytes"));
    }
    Ok(None)
}

/// A cursor that remembers absolute offsets.
pub(super) struct Raw<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Raw<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Raw<'a> {
        Raw { bytes, at: 0 }
    }

    /// Skips the fixed header; the rest is exactly one packet.
    pub(super) fn body(packet: &'a [u8]) -> Result<Raw<'a>, DecodeError> {
        let mut raw = Raw::new(packet);
        raw.u8()?;
        raw.varint()?;
        Ok(raw)
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).ok_or(ENDS_EARLY)?;
        let taken = self.bytes.get(self.at..end).ok_or(ENDS_EARLY)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take(1)?.first().copied().ok_or(ENDS_EARLY)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (value, taken) = variable_length(rest)?.ok_or(ENDS_EARLY)?;
        self.at += taken;
        Ok(value)
    }

    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A property block: its range, without the length in front.
    pub(super) fn properties(&mut self) -> Result<Range<usize>, DecodeError> {
        let len = self.varint()? as usize;
        let start = self.at;
        self.take(len)?;
        Ok(start..self.at)
    }
}

const ENDS_EARLY: DecodeError = DecodeError::Malformed("packet ends within a field");

/// Where a CONNECT keeps what the parser refuses or does not look at.
#[derive(Debug)]
pub(super) struct ConnectShape {
    pub(super) version: Version,
    /// Offset of the Connect Flags.
    pub(super) flags_at: usize,
    pub(super) flags: u8,
    pub(super) client_id_is_empty: bool,
    /// The Will Properties.
    pub(super) will_properties: Option<Range<usize>>,
}

pub(super) const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_AND_RETAIN: u8 = 0x38;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

impl ConnectShape {
    /// Walks a whole CONNECT packet.
    pub(super) fn of(packet: &[u8]) -> Result<ConnectShape, DecodeError> {
        let mut raw = Raw::body(packet)?;
        let version = protocol(&mut raw)?;
        let flags_at = raw.at();
        let flags = raw.u8()?;
        check_flags(flags, version)?;
        raw.u16()?; // keep alive
        if version.is_v5() {
            raw.properties()?;
        }
        let client_id_is_empty = raw.prefixed()?.is_empty();
        let mut will_properties = None;
        if flags & WILL != 0 {
            if version.is_v5() {
                will_properties = Some(raw.properties()?);
            }
            raw.prefixed()?;
            raw.prefixed()?;
        }
        for _ in 0..(flags & USERNAME).count_ones() + (flags & PASSWORD).count_ones() {
            raw.prefixed()?;
        }
        if !raw.is_empty() {
            return Err(DecodeError::Malformed("bytes after the end of CONNECT"));
        }
        Ok(ConnectShape { version, flags_at, flags, client_id_is_empty, will_properties })
    }
}

fn protocol(raw: &mut Raw<'_>) -> Result<Version, DecodeError> {
    let name = raw.prefixed()?;
    // A name that is not MQTT's gets no answer [MQTT-3.1.2-1]; a level that is not ours gets one [MQTT-3.1.2-2].
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::Malformed("protocol name is neither `MQTT` nor `MQIsdp`"));
    }
    match (name, raw.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        // 0x80 is a bridge's private bit over 3.x levels.
        (_, level) => {
            Err(DecodeError::UnsupportedVersion { level, wants_v5: level > 5 && level & 0x80 == 0 })
        }
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    if flags & 0x01 != 0 {
        return Err(DecodeError::Malformed("reserved bit of the Connect Flags is set")); // [MQTT-3.1.2-3]
    }
    if flags & WILL == 0 && flags & WILL_QOS_AND_RETAIN != 0 {
        return Err(DecodeError::Malformed("Will QoS or Will Retain without a Will")); // [MQTT-3.1.2-11], -13
    }
    if !version.is_v5() && flags & (USERNAME | PASSWORD) == PASSWORD {
        return Err(DecodeError::Malformed("a password without a user name")); // 3.1.1 [MQTT-3.1.2-22]
    }
    Ok(())
}

/// Offset (within `packet`) of a Message Expiry Interval of 0 in a property block. Anything odd ends the search: the
/// parser will say what is wrong.
pub(super) fn zero_expiry(packet: &[u8], properties: Range<usize>) -> Option<usize> {
    let mut raw = Raw { bytes: packet.get(..properties.end)?, at: properties.start };
    while !raw.is_empty() {
        let id = raw.u8().ok()?;
        let at = raw.at();
        if id == MESSAGE_EXPIRY {
            return (raw.take(4).ok()? == [0; 4]).then_some(at);
        }
        skip_property(&mut raw, id).ok()?;
    }
    None
}

/// MQTT 5.0 table 2-4, as far as PUBLISH and Will go.
fn skip_property(raw: &mut Raw<'_>, id: u8) -> Result<(), DecodeError> {
    match id {
        0x01 => raw.take(1).map(drop),
        0x03 | 0x08 | 0x09 => raw.prefixed().map(drop),
        0x0B => raw.varint().map(drop),
        0x18 => raw.take(4).map(drop),
        0x23 => raw.take(2).map(drop),
        0x26 => raw.prefixed().and_then(|_| raw.prefixed()).map(drop),
        _ => Err(DecodeError::Malformed("unknown property")),
    }
}

/// Where the properties of an MQTT 5 PUBLISH lie.
pub(super) fn publish_properties(packet: &[u8]) -> Result<Range<usize>, DecodeError> {
    let has_pid = packet.first().is_some_and(|first| first & 0x06 != 0);
    let mut raw = Raw::body(packet)?;
    raw.prefixed()?;
    if has_pid {
        raw.u16()?;
    }
    raw.properties()
}

/// Checks the upper six bits of the options of a 3.x SUBSCRIBE, which the parser masks away [MQTT-3-8.3-4].
pub(super) fn check_v3_subscribe(packet: &[u8]) -> Result<(), DecodeError> {
    let mut raw = Raw::body(packet)?;
    raw.u16()?;
    while !raw.is_empty() {
        raw.prefixed()?;
        if raw.u8()? & 0xFC != 0 {
            return Err(DecodeError::Malformed("reserved bits of the requested QoS are set"));
        }
    }
    Ok(())
}
