//! Bodies of requests that come in blocks (Block1, RFC 7959 section 2.5).
//!
//! A body is put together strictly in order: a gap, a start in the middle or blocks of another body are answered with
//! 4.08, never filled up. Which body a block belongs to is told by peer, method, path, query and Request-Tag (RFC 9175
//! section 3.3). Memory is bounded for each body and in all; when there is no room, the transfer that got least so far is
//! given up, so that a flood of first blocks pushes out its own.

use super::{Params, PeerKey};
use crate::code::Code;
use crate::option::{self, Block};
use crate::request::Request;
use crate::response::Response;
use std::collections::HashMap;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key<P> {
    peer: P,
    method: u8,
    path: Vec<String>,
    query: Vec<String>,
    tags: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Upload {
    body: Vec<u8>,
    content_format: Option<u16>,
    touched: Duration,
    /// What it counts for.
    weight: usize,
}

/// All transfers.
#[derive(Debug)]
pub(super) struct Uploads<P> {
    map: HashMap<Key<P>, Upload>,
    bytes: usize,
    /// Transfers given up before they were complete.
    pub(super) evicted: u64,
}

/// What a block led to.
#[derive(Debug)]
pub(super) enum Progress {
    /// More is to come: 2.31.
    Continue,
    /// The body is complete.
    Whole(Vec<u8>),
    /// The transfer is over.
    Refused(Response),
}

/// Beside the body: key, map, allocations.
const OVERHEAD_BYTES: usize = 256;

impl<P: PeerKey> Uploads<P> {
    pub(super) fn new() -> Uploads<P> {
        Uploads { map: HashMap::new(), bytes: 0, evicted: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a block of a body with more than one.
    pub(super) fn take(
        &mut self,
        now: Duration,
        peer: P,
        request: &Request,
        block: Block,
        params: &Params,
    ) -> Progress {
        let key = Key {
            peer,
            method: request.method.0,
            path: request.path.clone(),
            query: request.query.clone(),
            tags: request.request_tags.clone(),
        };
        if block.num == 0 {
            self.remove(&key);
            if let Err(refusal) = self.begin(now, &key, request, params) {
                return Progress::Refused(refusal);
            }
        }
        match self.append(now, &key, request, block, params) {
            Ok(false) => Progress::Continue,
            Ok(true) => {
                self.remove(&key).map_or_else(|| gap("unknown"), |upload| Progress::Whole(upload.body))
            }
            Err(refusal) => {
                self.remove(&key);
                Progress::Refused(refusal)
            }
        }
    }

    fn begin(
        &mut self,
        now: Duration,
        key: &Key<P>,
        request: &Request,
        params: &Params,
    ) -> Result<(), Response> {
        if request.size1.is_some_and(|size| size as usize > params.body_max_bytes) {
            return Err(too_large(params));
        }
        let weight = OVERHEAD_BYTES + key.bytes();
        self.reserve(weight + request.payload.len(), key, params)?;
        let content_format = request.content_format;
        self.bytes += weight;
        self.map.insert(key.clone(), Upload { body: Vec::new(), content_format, touched: now, weight });
        Ok(())
    }

    /// True if the body is complete.
    fn append(
        &mut self,
        now: Duration,
        key: &Key<P>,
        request: &Request,
        block: Block,
        params: &Params,
    ) -> Result<bool, Response> {
        let payload = &request.payload;
        let Some(upload) = self.map.get(key) else {
            return Err(incomplete("no block before this one is known"));
        };
        if upload.content_format != request.content_format {
            return Err(incomplete("another Content-Format than the blocks before"));
        }
        let have = upload.body.len();
        // The last block again, because its answer was lost and the client did not keep the message id.
        if block.more && block.offset() + payload.len() == have && block.offset() < have {
            return Ok(false);
        }
        if block.offset() != have {
            return Err(incomplete("a block before this one is missing"));
        }
        if block.more && payload.len() != block.size() || payload.len() > block.size() {
            return Err(Response::error(Code::BAD_REQUEST, "the payload is not as long as its block"));
        }
        if have + payload.len() > params.body_max_bytes {
            return Err(too_large(params));
        }
        self.reserve(payload.len(), key, params)?;
        let Some(upload) = self.map.get_mut(key) else { return Err(incomplete("given up for others")) };
        upload.body.extend_from_slice(payload);
        upload.touched = now;
        upload.weight += payload.len();
        self.bytes += payload.len();
        Ok(!block.more)
    }

    /// Makes room for `need` bytes by giving up other transfers, those first that got least.
    fn reserve(&mut self, need: usize, keep: &Key<P>, params: &Params) -> Result<(), Response> {
        while self.bytes + need > params.uploads_max_bytes {
            let others = self.map.iter().filter(|(key, _)| *key != keep);
            let least = others.min_by_key(|(_, upload)| (upload.body.len(), upload.touched));
            let Some(least) = least.map(|(key, _)| key.clone()) else { return Err(no_room()) };
            self.evicted += 1;
            self.remove(&least);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key<P>) -> Option<Upload> {
        let upload = self.map.remove(key)?;
        self.bytes = self.bytes.saturating_sub(upload.weight);
        Some(upload)
    }

    /// Gives up what nobody went on with for EXCHANGE_LIFETIME (section 2.5).
    pub(super) fn sweep(&mut self, now: Duration, params: &Params) {
        let lifetime = params.exchange_lifetime();
        let before = self.map.len();
        self.map.retain(|_, upload| now.saturating_sub(upload.touched) <= lifetime);
        self.evicted += (before - self.map.len()) as u64;
        self.bytes = self.map.values().map(|upload| upload.weight).sum();
    }
}

impl<P> Key<P> {
    fn bytes(&self) -> usize {
        let texts = self.path.iter().chain(&self.query).map(|text| text.len() + 24);
        texts.chain(self.tags.iter().map(|tag| tag.len() + 24)).sum()
    }
}

fn incomplete(why: &str) -> Response {
    Response::error(Code::REQUEST_ENTITY_INCOMPLETE, format!("{why}: start again with block 0"))
}

fn gap(why: &str) -> Progress {
    Progress::Refused(incomplete(why))
}

/// 4.13 says how much there may be (RFC 7959 section 2.9.3).
pub(super) fn too_large(params: &Params) -> Response {
    let max = u32::try_from(params.body_max_bytes).unwrap_or(u32::MAX);
    Response::error(Code::REQUEST_ENTITY_TOO_LARGE, format!("at most {max} bytes"))
        .with_uint(option::SIZE1, max)
}

fn no_room() -> Response {
    Response::error(Code::SERVICE_UNAVAILABLE, "too many bodies are on their way")
        .with_uint(option::MAX_AGE, 5)
}
