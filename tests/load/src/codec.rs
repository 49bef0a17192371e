//! The few MQTT 3.1.1 packets a load generator needs.

pub(crate) fn remaining_length(out: &mut Vec<u8>, mut n: usize) {
    loop {
        let b = (n % 128) as u8;
        n /= 128;
        out.push(if n > 0 { b | 0x80 } else { b });
        if n == 0 {
            return;
        }
    }
}

fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(&(s.len() as u16).to_be_bytes());
    out.extend_from_slice(s);
}

pub(crate) fn connect(out: &mut Vec<u8>, id: &str, clean: bool, keepalive: u16, user: Option<(&str, &str)>) {
    let mut b = vec![];
    string(&mut b, b"MQTT");
    b.push(4);
    b.push(if clean { 2 } else { 0 } | if user.is_some() { 0xc0 } else { 0 });
    b.extend_from_slice(&keepalive.to_be_bytes());
    string(&mut b, id.as_bytes());
    if let Some((u, p)) = user {
        string(&mut b, u.as_bytes());
        string(&mut b, p.as_bytes());
    }
    out.push(0x10);
    remaining_length(out, b.len());
    out.extend_from_slice(&b);
}

pub(crate) fn subscribe(out: &mut Vec<u8>, pid: u16, filter: &str, qos: u8) {
    out.push(0x82);
    remaining_length(out, 2 + 2 + filter.len() + 1);
    out.extend_from_slice(&pid.to_be_bytes());
    string(out, filter.as_bytes());
    out.push(qos);
}

pub(crate) fn publish_head(out: &mut Vec<u8>, topic: &str, qos: u8, pid: u16, payload_len: usize) {
    out.push(0x30 | qos << 1);
    remaining_length(out, 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload_len);
    string(out, topic.as_bytes());
    if qos > 0 {
        out.extend_from_slice(&pid.to_be_bytes());
    }
}

pub(crate) fn puback(out: &mut Vec<u8>, pid: u16) {
    out.extend_from_slice(&[0x40, 2, (pid >> 8) as u8, pid as u8]);
}

/// Total length of the packet at the start of `b` and the length of its fixed header.
pub(crate) fn frame(b: &[u8]) -> Option<(usize, usize)> {
    let (mut n, mut shift) = (0usize, 0);
    for i in 1..5 {
        let x = *b.get(i)?;
        n |= usize::from(x & 0x7f) << shift;
        shift += 7;
        if x & 0x80 == 0 {
            let total = 1 + i + n;
            return (b.len() >= total).then_some((total, 1 + i));
        }
    }
    None
}

/// Where the payload of an MQTT 5 PUBLISH starts whose properties start at `at`.
pub(crate) fn after_properties(b: &[u8], at: usize) -> usize {
    let (mut n, mut shift) = (0usize, 0);
    for i in 0..4 {
        let x = b.get(at + i).copied().unwrap_or(0);
        n |= usize::from(x & 0x7f) << shift;
        shift += 7;
        if x & 0x80 == 0 {
            return (at + i + 1 + n).min(b.len());
        }
    }
    b.len()
}

pub(crate) fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn lengths_round_trip() {
        for n in [0usize, 1, 127, 128, 16383, 16384, 2_097_151] {
            let mut v = vec![0x30];
            remaining_length(&mut v, n);
            v.resize(v.len() + n, 0);
            let (total, head) = frame(&v).unwrap();
            assert_eq!((total, total - head), (v.len(), n));
            assert!(n == 0 || frame(&v[..v.len() - 1]).is_none());
        }
    }
}
