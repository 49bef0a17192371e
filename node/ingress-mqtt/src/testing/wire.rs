//! Packets as a client writes them.

use crate::codec::Version;

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).unwrap();
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    bytes(text.as_bytes())
}

pub(crate) fn bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

#[derive(Clone)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    /// topic, payload, qos, retain
    pub(crate) will: Option<(&'a str, &'a str, u8, bool)>,
    pub(crate) properties: Vec<u8>,
    pub(crate) will_properties: Vec<u8>,
}

impl Default for Connect<'_> {
    fn default() -> Self {
        Connect {
            version: Version::V311,
            client_id: "c",
            clean: true,
            keep_alive: 60,
            username: None,
            password: None,
            will: None,
            properties: Vec::new(),
            will_properties: Vec::new(),
        }
    }
}

impl Connect<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = match self.version {
            Version::V31 => [text("MQIsdp"), vec![3]].concat(),
            Version::V311 => [text("MQTT"), vec![4]].concat(),
            Version::V5 => [text("MQTT"), vec![5]].concat(),
        };
        let mut flags = if self.clean { 2 } else { 0 };
        if let Some((_, _, qos, retain)) = self.will {
            flags |= 4 | qos << 3 | u8::from(retain) << 5;
        }
        flags |= if self.username.is_some() { 0x80 } else { 0 };
        flags |= if self.password.is_some() { 0x40 } else { 0 };
        body.push(flags);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        if self.version.is_v5() {
            body.push(u8::try_from(self.properties.len()).unwrap());
            body.extend_from_slice(&self.properties);
        }
        body.extend(text(self.client_id));
        if let Some((topic, payload, _, _)) = self.will {
            if self.version.is_v5() {
                body.push(u8::try_from(self.will_properties.len()).unwrap());
                body.extend_from_slice(&self.will_properties);
            }
            body.extend(text(topic));
            body.extend(text(payload));
        }
        body.extend(self.username.map(text).unwrap_or_default());
        body.extend(self.password.map(bytes).unwrap_or_default());
        packet(0x10, &body)
    }
}

pub(crate) fn session_expiry(secs: u32) -> Vec<u8> {
    [&[0x11][..], &secs.to_be_bytes()].concat()
}

pub(crate) fn publish(version: Version, topic: &str, qos: u8, pid: u16, dup: bool, payload: &str) -> Vec<u8> {
    publish_with(version, topic, qos, pid, dup, payload, &[])
}

pub(crate) fn publish_with(
    version: Version,
    topic: &str,
    qos: u8,
    pid: u16,
    dup: bool,
    payload: &str,
    properties: &[u8],
) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend_from_slice(&pid.to_be_bytes());
    }
    if version.is_v5() {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload.as_bytes());
    packet(0x30 | qos << 1 | u8::from(dup) << 3, &body)
}

pub(crate) fn ack(first: u8, pid: u16) -> Vec<u8> {
    packet(first, &pid.to_be_bytes())
}

pub(crate) fn subscribe(version: Version, pid: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(version: Version, pid: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    for filter in filters {
        body.extend(text(filter));
    }
    packet(0xA2, &body)
}

pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];
