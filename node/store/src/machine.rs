//! Which machine this is, as far as it can be told: so that a data directory that was copied to another one (the same SD
//! image on two gateways) is noticed, and the two do not give the same id to two events (P3). ADR 0010 has the reasons.
//!
//! Several marks of different kinds, each kept as a short hash (serial numbers are nobody's business). Two sets are of
//! one machine if no kind that both have differs; what only one of them has says nothing.

use blake2::{Blake2s256, Digest};
use std::fs;
use std::path::Path;

/// Kinds of marks. The order is on disk.
const KINDS: [&str; Machine::KINDS] = ["board serial", "product uuid", "network address", "machine id"];

/// The marks of a machine; zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine([u32; Machine::KINDS]);

impl Machine {
    pub(crate) const KINDS: usize = 4;

    /// The machine that this process runs on.
    ///
    /// - the board's serial number from the device tree: ARM boards
    /// - the product UUID of the firmware: x86 and virtual machines; only root can read it
    /// - the lowest permanent address of a network device: not those that software makes up (containers, bridges)
    /// - `/etc/machine-id`: the same on both sides of a copied image, unless that was prepared for copying
    ///
    /// What is missing or empty (a container without any of them) is left out.
    #[must_use]
    pub fn this() -> Machine {
        Machine::below(Path::new("/"))
    }

    fn below(root: &Path) -> Machine {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        Machine::of([
            text("sys/firmware/devicetree/base/serial-number"),
            text("sys/class/dmi/id/product_uuid"),
            permanent_address(&root.join("sys/class/net")),
            text("etc/machine-id"),
        ])
    }

    /// From marks as text.
    #[must_use]
    pub fn of(marks: [Option<String>; Machine::KINDS]) -> Machine {
        let mut machine = Machine::default();
        for ((slot, mark), kind) in machine.0.iter_mut().zip(marks).zip(KINDS) {
            *slot = mark.map_or(0, |mark| hash(kind, &mark));
        }
        machine
    }

    pub(crate) fn from_hashes(hashes: [u32; Machine::KINDS]) -> Machine {
        Machine(hashes)
    }

    pub(crate) fn hashes(&self) -> [u32; Machine::KINDS] {
        self.0
    }

    /// The first kind of mark that both have and that differs.
    pub(crate) fn differs(&self, other: &Machine) -> Option<&'static str> {
        let mut pairs = self.0.iter().zip(other.0).zip(KINDS);
        pairs.find(|((a, b), _)| **a != 0 && *b != 0 && **a != *b).map(|(_, kind)| kind)
    }

    /// What is known of one machine, whoever was allowed to see it: the newer where both know.
    #[must_use]
    pub(crate) fn or(self, older: Machine) -> Machine {
        let mut machine = self;
        for (slot, old) in machine.0.iter_mut().zip(older.0) {
            *slot = if *slot == 0 { old } else { *slot };
        }
        machine
    }
}

/// Zero means none; what names nobody in particular is none.
fn hash(kind: &str, mark: &str) -> u32 {
    let mark = mark.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_ascii_lowercase();
    let blank = mark.chars().all(|c| matches!(c, '0' | 'f' | '-' | ':' | ' '));
    if blank || ["uninitialized", "none", "default string", "to be filled by o.e.m."].contains(&mark.as_str())
    {
        return 0;
    }
    let digest = Blake2s256::new().chain_update(kind).chain_update([0]).chain_update(&mark).finalize();
    let (first, _) = digest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    u32::from_le_bytes(*first).max(1)
}

/// Of devices that are hardware (`device`) and whose address was not set by software (`addr_assign_type` 0).
fn permanent_address(net: &Path) -> Option<String> {
    let devices = fs::read_dir(net).ok()?.flatten().map(|entry| entry.path());
    let permanent = devices.filter(|path| {
        let assigned = fs::read_to_string(path.join("addr_assign_type")).unwrap_or_default();
        path.join("device").exists() && assigned.trim() == "0"
    });
    permanent.filter_map(|path| fs::read_to_string(path.join("address")).ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(marks: [&str; 4]) -> Machine {
        Machine::of(marks.map(|mark| (!mark.is_empty()).then(|| mark.to_owned())))
    }

    #[test]
    fn one_kind_that_both_have_and_that_differs_is_another_machine() {
        let a = machine(["10000000abcd", "", "b8:27:eb:01:02:03", "0123"]);
        assert_eq!(a.differs(&a), None);
        assert_eq!(
            a.differs(&machine(["10000000abce", "", "b8:27:eb:01:02:03", "0123"])),
            Some("board serial")
        );
        assert_eq!(a.differs(&machine(["", "", "b8:27:eb:01:02:04", "0123"])), Some("network address"));
        assert_eq!(a.differs(&machine(["", "4c4c4544", "", ""])), None, "nothing in common says nothing");
        assert_eq!(a.differs(&Machine::default()), None);
    }

    #[test]
    fn what_an_unprivileged_start_cannot_see_is_remembered() {
        let as_root = machine(["", "4c4c4544", "", "0123"]);
        let as_user = machine(["", "", "", "0123"]);
        assert_eq!(as_user.or(as_root), as_root);
        assert_eq!(machine(["", "", "", "9999"]).or(as_root), machine(["", "4c4c4544", "", "9999"]));
    }

    #[test]
    fn blanks_are_no_marks_and_case_and_padding_do_not_matter() {
        for blank in
            ["", "\n", "uninitialized\n", "00000000-0000-0000-0000-000000000000", "00:00:00:00:00:00", "ffff"]
        {
            assert_eq!(machine(["", "", "", blank]), Machine::default(), "{blank:?}");
        }
        assert_eq!(machine(["1000ABCD\0", "", "", ""]), machine(["1000abcd", "", "", ""]));
        assert_ne!(machine(["12", "", "", ""]).0[0], machine(["", "12", "", ""]).0[1], "kinds do not mix");
    }

    #[test]
    fn a_machine_is_read_from_where_linux_has_it() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Machine::below(root.path()), Machine::default(), "a bare container");
        write("etc/machine-id", "4e6f7420\n");
        write("sys/firmware/devicetree/base/serial-number", "10000000abcd\0");
        write("sys/class/net/docker0/address", "02:42:00:00:00:01\n");
        write("sys/class/net/docker0/addr_assign_type", "3\n");
        write("sys/class/net/eth0/address", "b8:27:eb:01:02:03\n");
        write("sys/class/net/eth0/addr_assign_type", "0\n");
        write("sys/class/net/eth0/device/vendor", "x");
        write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        write("sys/class/net/lo/addr_assign_type", "0\n");
        let expected = machine(["10000000abcd", "", "b8:27:eb:01:02:03", "4e6f7420"]);
        assert_eq!(Machine::below(root.path()), expected);
    }
}
