//! What a message carries after its 24-byte audit header.

const READING: &[u8] = br#"{"ts":1763881200123,"temp":21.37,"hum":48.20,"rpm":1480,"ok":true}"#;

/// One reusable message body.
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// Offsets whose byte changes with every message.
    varying: Vec<usize>,
    random: bool,
    state: u64,
}

impl Content {
    /// `len` bytes: JSON readings whose digits change (`random` false), or incompressible bytes.
    pub(crate) fn new(len: usize, random: bool) -> Self {
        let bytes: Vec<u8> = (0..len).map(|i| READING[i % READING.len()]).collect();
        let varying =
            (24..len).filter(|&i| random || (bytes[i].is_ascii_digit() && i % READING.len() >= 12)).collect();
        Self { bytes, varying, random, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next message; the caller overwrites the first 24 bytes.
    pub(crate) fn next_message(&mut self) -> &mut [u8] {
        for &i in &self.varying {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.bytes[i] = if self.random { self.state as u8 } else { b'0' + (self.state % 10) as u8 };
        }
        &mut self.bytes
    }
}
