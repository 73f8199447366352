//! The list of beacons that announce themselves (registry.md section 3.4, beacon.md "Beacon cluster"). Kept in memory
//! only: an entry lives a minute.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Call, Outcome, Registry};
use crate::message::Answer;
use crate::refusal::Refusal;

/// Seconds an announcement counts.
const LIFETIME: i64 = 60;
/// Bound on the announced address; the peers have none.
const MAX_ADDR: usize = 300;

/// Beacons by number: address, and unix seconds of the announcement.
#[derive(Debug, Default)]
pub(super) struct Beacons(BTreeMap<u32, (String, i64)>);

impl Beacons {
    pub fn expire(&mut self, now: i64) {
        self.0.retain(|_, (_, at)| now.saturating_sub(*at) <= LIFETIME);
    }

    pub fn list(&self, now: i64) -> Answer {
        let fresh = self.0.iter().filter(|(_, (_, at))| now.saturating_sub(*at) <= LIFETIME);
        let entry = |(id, (addr, _)): (&u32, &(String, i64))| {
            Value::from(Answer::empty().with("id", *id).with("addr", addr.as_str()))
        };
        Answer::ok("beacon_list").with("beacons", fresh.map(entry).collect::<Vec<_>>())
    }
}

impl Registry {
    pub(super) fn beacon_register(&mut self, call: &Call<'_>) -> Outcome {
        let (id, addr) = (call.request.node("beacon_id"), call.request.text("addr"));
        self.require_admin(call)?;
        if id == 0 || addr.is_empty() {
            return Err(Refusal::BeaconIncomplete);
        }
        if addr.len() > MAX_ADDR {
            return Err(Refusal::FieldTooLong { field: "addr", max: MAX_ADDR });
        }
        self.beacons.expire(call.now);
        let max = self.settings.max_beacons;
        if self.beacons.0.len() >= max && !self.beacons.0.contains_key(&id) {
            return Err(Refusal::TooManyBeacons(max));
        }
        self.beacons.0.insert(id, (addr.to_owned(), call.now));
        Ok(Answer::ok("beacon_register").with("beacon_id", id))
    }
}
