//! The schedule against a made-up clock; the names say which row of which table a test checks.

use super::*;

const LOCAL: &str = "0.0.0.0:4000";
const PUBLIC: &str = "203.0.113.9:4000";

/// A machine with its clock, doing nothing by itself.
struct Rig {
    now: Instant,
    machine: Membership,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::ZERO + secs(1000);
        Self { now, machine: Membership::new(now, LOCAL.parse().unwrap(), [7; 32]) }
    }

    /// One that has just registered, with the first actions done.
    fn up() -> Self {
        let mut rig = Self::new();
        rig.actions();
        rig.machine.observed(rig.now, PUBLIC.parse().unwrap());
        rig.actions();
        rig.machine.registered(rig.now, true);
        let actions = rig.actions();
        assert_eq!(actions, [Action::Discover, Action::Restore { again: false }, Action::PollHandshakes]);
        rig.machine.poll_done(rig.now);
        rig
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    /// Goes to the next deadline; gives the time it took and what is to be done.
    fn step(&mut self) -> (Duration, Vec<Action>) {
        let next = self.machine.poll_timeout().expect("something is due");
        let took = next - self.now;
        self.now = self.now.max(next);
        self.machine.handle_timeout(self.now);
        (took, self.actions())
    }

    /// Goes on for `time`, answering polls and heartbeats at once and in the affirmative; counts what was done.
    fn run(&mut self, time: Duration) -> Vec<(Duration, Action)> {
        let (start, end) = (self.now, self.now + time);
        let mut done = Vec::new();
        while self.machine.poll_timeout().is_some_and(|at| at <= end) {
            let (_, actions) = self.step();
            let mut actions = VecDeque::from(actions);
            while let Some(action) = actions.pop_front() {
                done.push((self.now - start, action));
                match action {
                    Action::Heartbeat => self.machine.heartbeat_done(self.now, Beat::Alive),
                    Action::PollHandshakes => self.machine.poll_done(self.now),
                    Action::Register { .. } => self.machine.registered(self.now, true),
                    Action::Discover | Action::Restore { .. } => {}
                }
                actions.extend(self.actions());
            }
        }
        self.now = end;
        done
    }

    fn polls(&mut self, time: Duration) -> Vec<u64> {
        let done = self.run(time);
        done.into_iter().filter(|(_, a)| *a == Action::PollHandshakes).map(|(at, _)| at.as_secs()).collect()
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn register(addr: &str) -> Action {
    Action::Register { listen_addr: addr.parse().unwrap() }
}

#[test]
fn a_public_address_is_registered_as_soon_as_it_is_known() {
    let mut rig = Rig::new();
    assert_eq!(rig.actions(), [Action::Discover]);
    assert_eq!(rig.step(), (secs(1), vec![Action::Discover]), "the first datagram may have been lost");
    rig.machine.observed(rig.now, PUBLIC.parse().unwrap());
    assert_eq!(rig.actions(), [register(PUBLIC)]);
    assert_eq!(rig.machine.poll_timeout(), None, "a registration has its own deadlines");
}

#[test]
fn a_private_address_is_no_better_than_our_own() {
    for seen in
        ["127.0.0.1:4000", "10.0.0.7:4000", "169.254.0.1:4000", "[::ffff:192.168.1.1]:4000", "[fd00::1]:4000"]
    {
        let mut rig = Rig::new();
        rig.actions();
        rig.machine.observed(rig.now, seen.parse().unwrap());
        assert_eq!(rig.actions(), [register("127.0.0.1:4000")], "{seen}");
    }
}

#[test]
fn a_fixed_address_is_registered_as_it_is() {
    let mut rig = Rig::new();
    rig.actions();
    rig.machine.fixed_address(rig.now, "10.0.0.7:4000".parse().unwrap());
    assert_eq!(rig.actions(), [register("10.0.0.7:4000")]);
}

#[test]
fn without_a_beacon_the_local_address_is_registered_after_five_seconds() {
    let mut rig = Rig::new();
    let began = rig.now;
    rig.actions();
    for _ in 0..4 {
        assert_eq!(rig.step().1, [Action::Discover]);
    }
    assert_eq!(rig.step().1, [register("127.0.0.1:4000")]);
    assert_eq!(rig.now - began, secs(5));
}

#[test]
fn registration_backs_off_from_100_ms_to_30_s() {
    let mut rig = Rig::new();
    rig.actions();
    rig.machine.observed(rig.now, PUBLIC.parse().unwrap());
    assert_eq!(rig.actions(), [register(PUBLIC)]);
    let mut least = Duration::from_millis(100);
    for _ in 0..15 {
        rig.machine.registered(rig.now, false);
        let (took, actions) = rig.step();
        assert_eq!(actions, [register(PUBLIC)]);
        assert!(least <= took && took <= least * 3 / 2, "{took:?} for {least:?}");
        least = (least * 2).min(secs(30));
    }
    rig.machine.registered(rig.now, true);
    assert_eq!(rig.actions()[1], Action::Restore { again: false });
}

#[test]
fn heartbeats_come_every_minute_and_discovers_every_25_s() {
    let mut rig = Rig::up();
    let done = rig.run(secs(600));
    let times = |wanted| done.iter().filter(|(_, a)| *a == wanted).map(|(at, _)| *at).collect::<Vec<_>>();
    let beats = times(Action::Heartbeat);
    assert!(secs(60) <= beats[0] && beats[0] <= secs(65), "{:?}", beats[0]);
    assert!(beats.windows(2).all(|w| w[1] - w[0] == secs(60)));
    assert!(beats.len() >= 9);
    let discovers = times(Action::Discover);
    assert!(secs(25) <= discovers[0] && discovers[0] <= secs(27));
    assert!(discovers.windows(2).all(|w| w[1] - w[0] <= secs(25)));
    assert!(beats.iter().all(|beat| discovers.contains(beat)), "each heartbeat is followed by one");
    assert_eq!(times(Action::PollHandshakes), beats, "and by a poll");
}

#[test]
fn three_failures_register_again() {
    let mut rig = Rig::up();
    for n in 1..=MAX_FAILURES {
        while !rig.step().1.contains(&Action::Heartbeat) {}
        rig.machine.heartbeat_done(rig.now, Beat::Failed);
        assert_eq!(rig.machine.is_up(), n < MAX_FAILURES);
    }
    let (took, actions) = rig.step();
    assert!(Duration::from_millis(100) <= took && took <= Duration::from_millis(150));
    assert_eq!(actions, [register(PUBLIC)]);
    rig.machine.registered(rig.now, true);
    assert_eq!(rig.actions()[..2], [Action::Discover, Action::Restore { again: true }]);
}

#[test]
fn a_success_in_between_forgives() {
    let mut rig = Rig::up();
    for beat in [Beat::Failed, Beat::Failed, Beat::Alive, Beat::Failed, Beat::Failed] {
        while !rig.step().1.contains(&Action::Heartbeat) {}
        rig.machine.heartbeat_done(rig.now, beat);
        rig.machine.poll_done(rig.now);
    }
    assert!(rig.machine.is_up());
}

#[test]
fn a_registry_that_forgot_us_is_told_at_once() {
    assert_eq!(Beat::from_refusal("node 7: node not found"), Beat::Forgotten);
    assert_eq!(Beat::from_refusal("signature verification failed"), Beat::Forgotten);
    assert_eq!(Beat::from_refusal("request failed"), Beat::Failed);
    let mut rig = Rig::up();
    while !rig.step().1.contains(&Action::Heartbeat) {}
    rig.machine.heartbeat_done(rig.now, Beat::Forgotten);
    assert_eq!(rig.actions(), [register(PUBLIC)]);
}

#[test]
fn no_second_heartbeat_while_one_is_under_way() {
    let mut rig = Rig::up();
    while !rig.step().1.contains(&Action::Heartbeat) {}
    for _ in 0..20 {
        assert!(!rig.step().1.contains(&Action::Heartbeat));
    }
    rig.machine.heartbeat_done(rig.now, Beat::Failed);
    assert!(rig.step().1.contains(&Action::Heartbeat), "the missed ones are one");
    rig.machine.heartbeat_done(rig.now, Beat::Failed);
    assert!(!rig.step().1.contains(&Action::Heartbeat));
}

#[test]
fn a_new_address_is_registered_but_not_every_minute() {
    let mut rig = Rig::up();
    rig.machine.observed(rig.now, PUBLIC.parse().unwrap());
    assert!(!rig.run(secs(20)).contains(&(secs(0), register(PUBLIC))));
    rig.machine.observed(rig.now, "203.0.113.9:5000".parse().unwrap());
    rig.machine.observed(rig.now, "203.0.113.9:6000".parse().unwrap());
    let done = rig.run(secs(300));
    let registrations: Vec<_> = done.iter().filter(|(_, a)| matches!(a, Action::Register { .. })).collect();
    assert_eq!(registrations, [&(secs(40), register("203.0.113.9:6000"))]);
    assert!(done.contains(&(secs(40), Action::Restore { again: true })));
}

#[test]
fn an_own_request_is_watched_for_two_minutes() {
    let mut rig = Rig::up();
    rig.run(secs(10));
    rig.machine.own_request(rig.now, 9, false);
    let polls = rig.polls(secs(200));
    let (close, regular): (Vec<u64>, Vec<u64>) = polls.iter().partition(|at| **at < 120);
    assert_eq!(close[0], 2);
    assert!(close.windows(2).all(|w| w[1] - w[0] <= 2), "{close:?}");
    assert!(
        (59..=62).contains(&close.len()),
        "regular ones shift the rhythm but do not add to it: {close:?}"
    );
    assert_eq!(regular.len(), 1, "{regular:?}");
}

#[test]
fn an_answer_ends_the_watch() {
    let mut rig = Rig::up();
    rig.machine.own_request(rig.now, 9, true);
    assert_eq!(rig.polls(secs(5)), [2, 4]);
    rig.machine.answered(9);
    assert!(rig.polls(secs(40)).is_empty());
}

#[test]
fn a_repeated_request_does_not_extend_and_only_an_explicit_one_restarts() {
    let mut rig = Rig::up();
    rig.machine.own_request(rig.now, 9, false);
    rig.run(secs(119));
    rig.machine.own_request(rig.now, 9, true);
    rig.run(secs(2));
    assert!(!rig.machine.polls.watches(rig.now, 9), "not extended");
    rig.machine.own_request(rig.now, 9, false);
    assert!(!rig.machine.polls.watches(rig.now, 9), "automatic ones have to rest");
    rig.machine.own_request(rig.now, 9, true);
    assert!(rig.machine.polls.watches(rig.now, 9));
    rig.run(secs(601));
    rig.machine.own_request(rig.now, 9, false);
    assert!(rig.machine.polls.watches(rig.now, 9), "rested");
}

#[test]
fn at_most_64_peers_are_watched() {
    let mut rig = Rig::up();
    for peer in 1..=70 {
        rig.machine.own_request(rig.now, peer, true);
    }
    let watched = |rig: &mut Rig| (1..=70).filter(|p| rig.machine.polls.watches(rig.now, *p)).count();
    assert_eq!(watched(&mut rig), 64);
    rig.machine.answered(5);
    rig.machine.own_request(rig.now, 70, true);
    assert!(rig.machine.polls.watches(rig.now, 70));
    assert_eq!(watched(&mut rig), 64);
}

#[test]
fn a_client_waits_for_a_poll_unless_one_has_just_been() {
    let mut rig = Rig::up();
    rig.run(secs(1));
    assert_eq!(rig.machine.client_looks(rig.now), Look::Now, "1 s after the last one");
    rig.run(secs(1));
    let until = rig.now + secs(3);
    assert_eq!(rig.machine.client_looks(rig.now), Look::Wait { until });
    assert_eq!(rig.actions(), [Action::PollHandshakes]);
    rig.now += secs(1);
    assert_eq!(rig.machine.client_looks(rig.now), Look::Wait { until }, "counted from the poll's start");
    assert_eq!(rig.actions(), [], "one at a time");
    rig.now += secs(2);
    assert_eq!(rig.machine.client_looks(rig.now), Look::Now, "it runs longer than anyone waits");
    rig.machine.poll_done(rig.now);
    assert_eq!(rig.actions(), []);
}

#[test]
fn waiting_for_trust_polls_only_inside_the_window() {
    let mut rig = Rig::up();
    rig.run(secs(5));
    assert_eq!(rig.machine.client_waits(rig.now, 9), Look::Now);
    rig.machine.own_request(rig.now, 9, true);
    assert!(matches!(rig.machine.client_waits(rig.now, 9), Look::Wait { .. }));
    assert_eq!(rig.actions(), [Action::PollHandshakes]);
}

#[test]
fn pokes_merge_and_run_out() {
    let mut rig = Rig::up();
    rig.run(secs(10));
    for _ in 0..5 {
        rig.machine.notified(rig.now);
    }
    assert_eq!(rig.actions(), [Action::PollHandshakes], "five pokes are one poll");
    rig.machine.notified(rig.now);
    rig.machine.poll_done(rig.now);
    assert_eq!(rig.actions(), [], "not within 2 s of the last one");
    assert_eq!(rig.polls(secs(3)), [2]);
    // Three tokens in the bucket, two spent above. One comes back every 5 s, the first one soon.
    let mut polled = 0;
    for _ in 0..20 {
        rig.machine.notified(rig.now);
        polled += usize::from(rig.actions().contains(&Action::PollHandshakes));
        rig.machine.poll_done(rig.now);
        polled += rig.polls(Duration::from_millis(500)).len();
    }
    assert!((2..=4).contains(&polled), "{polled} polls in 10 s");
}

#[test]
fn a_poke_during_a_poll_is_followed_by_another_one() {
    let mut rig = Rig::up();
    rig.run(secs(10));
    rig.machine.notified(rig.now);
    assert_eq!(rig.actions(), [Action::PollHandshakes]);
    rig.now += secs(3);
    rig.machine.notified(rig.now);
    assert_eq!(rig.actions(), []);
    rig.machine.poll_done(rig.now);
    assert_eq!(rig.actions(), [Action::PollHandshakes]);
}

#[test]
fn nothing_is_polled_before_the_registration() {
    let mut rig = Rig::new();
    rig.actions();
    rig.machine.notified(rig.now);
    rig.machine.own_request(rig.now, 9, true);
    assert_eq!(rig.machine.client_looks(rig.now), Look::Now);
    assert_eq!(rig.actions(), []);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || Rig::up().run(secs(3600));
    assert_eq!(run(), run());
}
