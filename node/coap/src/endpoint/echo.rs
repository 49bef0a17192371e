//! Echo values (RFC 9175 section 2): who sends one back has seen our message, so the address is real. Nothing is kept
//! for them: the value is the time and a keyed hash of time and address.

use super::PeerKey;
use blake2::Blake2sMac;
use blake2::digest::Mac;
use blake2::digest::consts::U8;

/// Four bytes of time, eight of hash.
const LENGTH: usize = 12;

/// Makes and checks values.
#[derive(Clone)]
pub(super) struct Echo {
    key: [u8; 32],
}

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Echo")
    }
}

impl Echo {
    pub(super) fn new(key: [u8; 32]) -> Echo {
        Echo { key }
    }

    pub(super) fn value<P: PeerKey>(&self, peer: P, now_secs: u32) -> Vec<u8> {
        let mut value = Vec::with_capacity(LENGTH);
        value.extend(now_secs.to_be_bytes());
        value.extend(self.mac(peer, now_secs).finalize().into_bytes());
        value
    }

    pub(super) fn proves<P: PeerKey>(
        &self,
        value: &[u8],
        peer: P,
        now_secs: u32,
        lifetime_secs: u32,
    ) -> bool {
        let (Some(time), Some(tag), LENGTH) = (value.first_chunk::<4>(), value.get(4..), value.len()) else {
            return false;
        };
        let time = u32::from_be_bytes(*time);
        // Constant-time comparison.
        now_secs.checked_sub(time).is_some_and(|age| age <= lifetime_secs)
            && self.mac(peer, time).verify_slice(tag).is_ok()
    }

    fn mac<P: PeerKey>(&self, peer: P, time_secs: u32) -> Blake2sMac<U8> {
        let mut mac = <Blake2sMac<U8> as Mac>::new(&self.key.into());
        mac.update(&time_secs.to_be_bytes());
        peer.feed(&mut |bytes| mac.update(bytes));
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_proves_its_own_address_for_its_time() {
        let echo = Echo::new([7; 32]);
        let value = echo.value(1u64, 100);
        assert_eq!(value.len(), LENGTH);
        assert!(echo.proves(&value, 1u64, 100, 60) && echo.proves(&value, 1u64, 160, 60));
        assert!(!echo.proves(&value, 1u64, 161, 60), "too old");
        assert!(!echo.proves(&value, 1u64, 99, 60), "from the future");
        assert!(!echo.proves(&value, 2u64, 100, 60), "another address");
        assert!(!Echo::new([8; 32]).proves(&value, 1u64, 100, 60), "another node");
        for at in 0..LENGTH {
            let mut forged = value.clone();
            forged[at] ^= 1;
            assert!(!echo.proves(&forged, 1u64, 110, 60), "{at}");
        }
        assert!(!echo.proves(&[], 1u64, 100, 60) && !echo.proves(&value[..11], 1u64, 100, 60));
    }
}
