//! The password file of a listener (P7).
//!
//! ```text
//! # comments and empty lines are fine
//! sensor-12:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$...
//! ```
//! One user a line, the hash a PHC string as `eventmesh-edge password` prints it. The name may hold any character but
//! `:` and line breaks. The file is read and checked as a whole; every problem is named with its line.
//!
//! **Cost.** One check is one run of argon2id: milliseconds and mebibytes, on purpose. The listener runs a few at a time
//! on blocking threads. So that ten thousand devices which reconnect after a power cut do not cost ten thousand runs,
//! whoever was let in is remembered. That stays safe because
//! - only credentials that argon2id has accepted are remembered, never refused ones;
//! - what is kept is a BLAKE2 MAC over user, stored hash and password, under a key drawn at random by this process and
//!   never written anywhere: worthless outside it, and of no use for guessing without it;
//! - a file that was loaded anew has a cache of its own, and the stored hash is part of the MAC: a changed password
//!   is not remembered;
//! - it is bounded, and forgets the oldest first.
//!
//! An unknown user costs the same run as a wrong password, against a hash that nothing matches.

use crate::live::Live;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use blake2::Blake2sMac256;
use blake2::digest::Mac;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::hub::{Authenticator, Credentials, Denied, Principal};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Logins remembered; some 100 bytes each.
const REMEMBERED_MAX: usize = 16_384;
/// The parameters that new hashes get: OWASP's first choice for argon2id, 19 MiB and two passes.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// A line may not ask for more than this: a check must not be able to take the gateway's memory (P5).
const MEMORY_KIB_MAX: u32 = 128 * 1024;

/// Why a password file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read password file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Lines that are wrong; all of them.
    #[error("password file {path}: {problems}")]
    Lines {
        /// Which file.
        path: PathBuf,
        /// One sentence per line, with its number.
        problems: String,
    },
    /// The system gives no random numbers.
    #[error("draw a key for the login cache: {0}")]
    Random(getrandom::Error),
}

/// Why no hash was made.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The name cannot stand in the file.
    #[error(
        "a user name is not empty and has no `:`, no `#` in front, no line break and no space at its ends"
    )]
    Name,
    /// The system gives no random numbers.
    #[error("draw a salt: {0}")]
    Random(getrandom::Error),
    /// argon2 refused.
    #[error("hash the password: {0}")]
    Argon2(argon2::password_hash::Error),
}

/// Hashes a password with argon2id and a random salt, as a PHC string.
///
/// # Errors
/// [`HashError`] without random numbers, or if argon2 refuses.
pub fn hash_password(password: &[u8]) -> Result<String, HashError> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(HashError::Random)?;
    let salt = SaltString::encode_b64(&salt).map_err(HashError::Argon2)?;
    let hash = hasher(MEMORY_KIB, PASSES, 1).hash_password(password, &salt).map_err(HashError::Argon2)?;
    Ok(hash.to_string())
}

/// A line for the password file: `name:hash`.
///
/// # Errors
/// [`HashError`] if the name cannot stand in the file, or as [`hash_password`].
pub fn password_line(username: &str, password: &[u8]) -> Result<String, HashError> {
    let odd = username.is_empty()
        || username.starts_with('#')
        || username.contains([':', '\n', '\r', '\0'])
        || username.trim() != username;
    if odd {
        return Err(HashError::Name);
    }
    Ok(format!("{username}:{}", hash_password(password)?))
}

fn hasher(memory_kib: u32, passes: u32, lanes: u32) -> Argon2<'static> {
    let params = Params::new(memory_kib, passes, lanes, None).unwrap_or(Params::DEFAULT);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Users and their hashes; an [`Authenticator`] for listeners with `auth = "password"`.
pub struct PasswordFile {
    users: HashMap<String, String>,
    /// Verified for unknown users: the parameters of the first entry, a salt and a hash of nobody's.
    nobody: Argon2<'static>,
    key: [u8; 32],
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    macs: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl PasswordFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`LoadError`] if it cannot be read or any of its lines is wrong.
    pub fn load(path: &Path) -> Result<PasswordFile, LoadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        PasswordFile::parse(&text).map_err(|error| match error {
            ParseError::Lines(problems) => LoadError::Lines { path: path.to_owned(), problems },
            ParseError::Random(error) => LoadError::Random(error),
        })
    }

    fn parse(text: &str) -> Result<PasswordFile, ParseError> {
        let mut users = HashMap::new();
        let mut problems = String::new();
        let mut nobody = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_line(line).and_then(|(name, hash, hasher)| {
                nobody.get_or_insert(hasher);
                let first = users.insert(name.to_owned(), hash.to_owned()).is_none();
                first.then_some(()).ok_or("this user is there already")
            });
            if let Err(problem) = entry {
                let separator = if problems.is_empty() { "" } else { "; " };
                // Writing to a String cannot fail.
                write!(problems, "{separator}line {}: {problem}", index + 1).unwrap_or_default();
            }
        }
        if !problems.is_empty() {
            return Err(ParseError::Lines(problems));
        }
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).map_err(ParseError::Random)?;
        let nobody = nobody.unwrap_or_else(|| hasher(MEMORY_KIB, PASSES, 1));
        Ok(PasswordFile { users, nobody, key, remembered: Mutex::default() })
    }

    /// How many users it knows.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// See the module's description. Each field is preceded by its length, so that no two triples look the same.
    fn mac(&self, user: &str, hash: &str, password: &[u8]) -> Blake2sMac256 {
        let mut mac = <Blake2sMac256 as Mac>::new(&self.key.into());
        for field in [user.as_bytes(), hash.as_bytes(), password] {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }

    fn is_remembered(&self, mac: &[u8; 32]) -> bool {
        // A lookup by value is not constant-time in the MAC, which nobody can choose without the key.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).macs.contains(mac)
    }

    fn remember(&self, mac: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if !remembered.macs.insert(mac) {
            return;
        }
        remembered.order.push_back(mac);
        if remembered.order.len() > REMEMBERED_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.macs.remove(&oldest);
        }
    }

    fn verify(&self, user: &str, password: &[u8]) -> bool {
        let Some(stored) = self.users.get(user) else {
            // The same work as for a user that exists, for its duration alone.
            let mut out = [0u8; 32];
            return self
                .nobody
                .hash_password_into(password, b"nobody's salt 16", &mut out)
                .is_ok_and(|()| false);
        };
        // The parameters are the ones in the line.
        PasswordHash::new(stored).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
    }
}

/// A password file that is read again when it has changed: new users get in, removed ones and earlier passwords do not.
/// Whoever is connected stays connected. A file that cannot be used leaves the earlier one in force.
pub struct LivePasswords(Live<PasswordFile>);

impl LivePasswords {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// As [`PasswordFile::load`].
    pub fn load(path: &Path) -> Result<LivePasswords, LoadError> {
        let file = path.to_owned();
        Live::open("password file", vec![path.to_owned()], move || PasswordFile::load(&file))
            .map(LivePasswords)
    }
}

impl Authenticator for LivePasswords {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        self.0.current().authenticate(credentials)
    }

    fn recall(&self, credentials: &Credentials<'_>) -> Option<Principal> {
        self.0.current().recall(credentials)
    }

    fn refresh(&self, now: bool) {
        self.0.refresh(now);
    }
}

enum ParseError {
    Lines(String),
    Random(getrandom::Error),
}

fn parse_line(line: &str) -> Result<(&str, &str, Argon2<'static>), &'static str> {
    let (name, hash) = line.split_once(':').ok_or("expected `user:hash`, there is no `:`")?;
    let (name, hash) = (name.trim(), hash.trim());
    if name.is_empty() {
        return Err("the user name is empty");
    }
    let parsed = PasswordHash::new(hash)
        .map_err(|_| "the hash is no PHC string; make one with `eventmesh-edge password`")?;
    if parsed.algorithm.as_str() != "argon2id" {
        return Err("the hash is not argon2id; make a new one with `eventmesh-edge password`");
    }
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return Err("the hash is incomplete");
    }
    let params = Params::try_from(&parsed).map_err(|_| "the parameters of the hash are not argon2id's")?;
    if params.m_cost() > MEMORY_KIB_MAX {
        return Err("the hash asks for more than 128 MiB of memory (m=131072)");
    }
    Ok((name, hash, hasher(params.m_cost(), params.t_cost(), params.p_cost())))
}

impl Authenticator for PasswordFile {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        if let Some(principal) = self.recall(credentials) {
            return Ok(principal);
        }
        let user = credentials.username.ok_or(Denied::NoCredentials)?;
        let password = credentials.password.unwrap_or_default();
        if !self.verify(user, password) {
            return Err(Denied::BadCredentials);
        }
        if let Some(hash) = self.users.get(user) {
            self.remember(self.mac(user, hash, password).finalize().into_bytes().into());
        }
        Ok(principal(user))
    }

    fn recall(&self, credentials: &Credentials<'_>) -> Option<Principal> {
        let user = credentials.username?;
        let hash = self.users.get(user)?;
        let mac = self.mac(user, hash, credentials.password.unwrap_or_default()).finalize().into_bytes();
        self.is_remembered(&mac.into()).then(|| principal(user))
    }
}

fn principal(user: &str) -> Principal {
    Principal { name: Text::from(user), anonymous: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials<'a>(username: &'a str, password: &'a str) -> Credentials<'a> {
        Credentials { client_id: "c", username: Some(username), password: Some(password.as_bytes()) }
    }

    /// Small parameters: these tests are about the file, not about argon2.
    fn line(user: &str, password: &str) -> String {
        let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
        format!("{user}:{}\n", hasher(64, 1, 1).hash_password(password.as_bytes(), &salt).unwrap())
    }

    fn file(text: &str) -> PasswordFile {
        PasswordFile::parse(text).map_err(|_| "does not parse").unwrap()
    }

    fn problems(text: &str) -> String {
        match PasswordFile::parse(text) {
            Err(ParseError::Lines(problems)) => problems,
            _ => panic!("{text} parsed"),
        }
    }

    #[test]
    fn the_right_password_gets_in_and_nothing_else_does() {
        let file = file(&format!("# devices\n\n{}{}", line("sensor é", "gehe#im"), line("other", "x")));
        let principal = file.authenticate(&credentials("sensor é", "gehe#im")).unwrap();
        assert_eq!(principal, Principal { name: Text::from_static("sensor é"), anonymous: false });
        for (user, password) in [("sensor é", "x"), ("other", "gehe#im"), ("nobody", "x"), ("sensor é", "")]
        {
            assert_eq!(
                file.authenticate(&credentials(user, password)),
                Err(Denied::BadCredentials),
                "{user}"
            );
        }
        let none = Credentials { client_id: "c", username: None, password: None };
        assert_eq!(file.authenticate(&none), Err(Denied::NoCredentials));
    }

    #[test]
    fn only_what_was_accepted_is_remembered() {
        let file = file(&line("a", "right"));
        assert_eq!(file.recall(&credentials("a", "right")), None, "nothing was checked yet");
        assert!(file.authenticate(&credentials("a", "wrong")).is_err());
        assert_eq!(file.recall(&credentials("a", "wrong")), None);
        assert!(file.authenticate(&credentials("a", "right")).is_ok());
        assert!(file.recall(&credentials("a", "right")).is_some());
        assert_eq!(file.recall(&credentials("a", "wrong")), None);
        assert_eq!(file.recall(&credentials("b", "right")), None);
    }

    #[test]
    fn the_memory_of_logins_is_bounded() {
        let file = file("");
        for n in 0..REMEMBERED_MAX + 10 {
            let mut mac = [0; 32];
            mac[..8].copy_from_slice(&n.to_be_bytes());
            file.remember(mac);
        }
        assert_eq!(file.remembered.lock().unwrap().macs.len(), REMEMBERED_MAX);
        assert!(!file.is_remembered(&[0; 32]), "the oldest went first");
    }

    #[test]
    fn every_wrong_line_is_named() {
        let text = format!("{}no colon\n:x\nb:plain\nc:$2b$12$abc\n{}", line("a", "1"), line("a", "2"));
        let problems = problems(&text);
        for part in [
            "line 2: expected `user:hash`",
            "line 3: the user name is empty",
            "line 4:",
            "line 5:",
            "line 6: this user",
        ] {
            assert!(problems.contains(part), "{part} not in {problems}");
        }
        assert!(!problems.contains("plain"), "nothing of the hash is shown: {problems}");
    }

    #[test]
    fn a_hash_that_asks_for_too_much_memory_is_refused() {
        let salt = "MDEyMzQ1Njc4OWFiY2RlZg";
        let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(problems(&format!("a:$argon2id$v=19$m=1048576,t=1,p=1${salt}${hash}")).contains("128 MiB"));
    }

    #[test]
    fn a_line_made_for_the_file_works_in_it() {
        let line = password_line("gateway/7 é", b"p:w#\xFF").unwrap();
        let file = file(&line);
        let shown =
            Credentials { client_id: "", username: Some("gateway/7 é"), password: Some(b"p:w#\xFF") };
        assert!(file.authenticate(&shown).is_ok());
        for name in ["", "a:b", "#a", "a\nb", " a"] {
            assert!(matches!(password_line(name, b"x"), Err(HashError::Name)), "{name:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = PasswordFile::load(Path::new("/nonexistent/passwords")).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/passwords"), "{error}");
    }
}
