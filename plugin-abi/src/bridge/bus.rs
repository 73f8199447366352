//! The event bus and its subscriptions.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use abi_stable::std_types::{ROption, RStr};
use serde_json::{Map, Value};

use super::stream::Gone;
use super::{Border, Local, Remote, border, payload_from_json, payload_json, to_ms};
use crate::abi::{self, AbiResult};
use crate::types::{Event, EventText};
use crate::{Error, Result, api};

border!(EventBus, EventBusArc);
border!(Subscription, SubscriptionArc);

impl<T: api::EventBus + ?Sized + 'static> abi::EventBus for Local<T> {
    #[inline]
    fn publish(&self, topic: RStr<'_>, payload: RStr<'_>) -> AbiResult<()> {
        self.guard("EventBus.publish", |b| {
            b.publish(topic.as_str(), payload_from_json(payload.as_str())?);
            Ok(())
        })
    }

    fn subscribe(&self, pattern: RStr<'_>) -> AbiResult<abi::SubscriptionArc> {
        self.guard("EventBus.subscribe", |b| Ok(b.subscribe(pattern.as_str()).lend(&self.link)))
    }
}

impl api::EventBus for Remote<abi::EventBusArc> {
    fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        let Ok(text) = payload_json(payload.as_ref()) else { return };
        self.call_or("EventBus.publish", (), |b| b.publish(topic.into(), text.as_str().into()));
    }

    fn subscribe(&self, pattern: &str) -> Arc<dyn api::Subscription> {
        match self.call("EventBus.subscribe", |b| b.subscribe(pattern.into())) {
            Ok(subscription) => <dyn api::Subscription>::adopt(subscription, &self.link),
            Err(e) => Arc::new(Gone(e)),
        }
    }
}

impl<T: api::Subscription + ?Sized + 'static> abi::Subscription for Local<T> {
    #[inline]
    fn recv(&self, timeout_ms: u64) -> AbiResult<ROption<abi::Event>> {
        self.guard("Subscription.recv", |s| {
            let event = s.recv_text(Duration::from_millis(timeout_ms))?;
            Ok(event.map(event_to_abi).into())
        })
    }

    fn cancel(&self) -> AbiResult<()> {
        self.guard("Subscription.cancel", |s| {
            s.cancel();
            Ok(())
        })
    }
}

impl api::Subscription for Remote<abi::SubscriptionArc> {
    fn recv(&self, timeout: Duration) -> Result<Option<Event>> {
        let event = self.call("Subscription.recv", |s| s.recv(to_ms(timeout)))?;
        event.into_option().map(event_from_abi).transpose()
    }

    fn recv_text(&self, timeout: Duration) -> Result<Option<EventText>> {
        let event = self.call("Subscription.recv", |s| s.recv(to_ms(timeout)))?;
        Ok(event.into_option().map(text_from_abi))
    }

    fn cancel(&self) {
        self.call_or("Subscription.cancel", (), |s| s.cancel());
    }
}

fn event_to_abi(e: EventText) -> abi::Event {
    let since_epoch = e.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    abi::Event {
        topic: e.topic.into(),
        node_id: e.node_id,
        unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        payload_json: e.payload.unwrap_or_default().into(),
    }
}

fn text_from_abi(e: abi::Event) -> EventText {
    EventText {
        topic: e.topic.into_string(),
        node_id: e.node_id,
        time: UNIX_EPOCH.checked_add(Duration::from_millis(e.unix_ms)).unwrap_or(UNIX_EPOCH),
        payload: Some(e.payload_json.into_string()).filter(|text| !text.is_empty()),
    }
}

fn event_from_abi(e: abi::Event) -> Result<Event> {
    let EventText { topic, node_id, time, payload } = text_from_abi(e);
    Ok(Event { topic, node_id, time, payload: payload_from_json(payload.as_deref().unwrap_or_default())? })
}

impl api::EventBus for Gone {
    fn publish(&self, _topic: &str, _payload: Option<Map<String, Value>>) {}

    fn subscribe(&self, _pattern: &str) -> Arc<dyn api::Subscription> {
        Arc::new(Gone(self.0.clone()))
    }
}

impl api::Subscription for Gone {
    fn recv(&self, _timeout: Duration) -> Result<Option<Event>> {
        Err(Error::new(crate::ErrorKind::Closed, self.0.message()))
    }

    fn cancel(&self) {}
}
