//! Entry points for fuzzing: what any bytes of a peer may do to the two state machines. They must not panic, not hang
//! and not hold more than the limits allow.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use export::{BlockingPool, MemoryDisk, PayloadBuffers};
use scsi::{LunMask, Target, TargetIdentity, TargetPort, UnitOptions};

use crate::chap::{ChapAccount, ChapAlgorithm, ChapPolicy, Secret};
use crate::directory::TargetDirectory as _;
use crate::directory::{AccessRule, Authentication, Initiator, InitiatorPattern, StaticDirectory};
use crate::session::{
    Budget, Established, FullFeature, Login, LoginContext, LoginStep, Names, NoNeighbours, Offer,
    Parameters, Receiver, SessionKind, SessionLimits, SessionName, Step, Surroundings, Timing,
};
use crate::wire::{Digests, additional_headers, parse_text};
use crate::{Metrics, SessionError};

/// Gives `data` to the decoders of texts and additional headers.
pub fn fuzz_text(data: &[u8]) {
    if let Ok(pairs) = parse_text(data) {
        for (_, value) in pairs {
            drop(crate::wire::decode_binary(value, 1024));
            std::hint::black_box(crate::wire::decode_number(value));
        }
    }
    std::hint::black_box(additional_headers(data));
}

/// Gives `data` to a login, in pieces whose size the first byte says.
pub fn fuzz_login(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else {
        return;
    };
    let directory = directory(control & 1 != 0);
    let mut login = Login::start(LoginContext {
        peer: ([127, 0, 0, 1], 1).into(),
        portal_group: 1,
        offer: Offer::default(),
    });
    let mut receiver = Receiver::new(8192);
    let mut waker = Context::from_waker(Waker::noop());
    for mut piece in data.chunks(usize::from(control >> 1) + 1) {
        while !piece.is_empty() {
            let Poll::Ready(Ok(_)) = receiver.poll_fill(Pin::new(&mut piece), &mut waker) else {
                return;
            };
        }
        loop {
            let received = match receiver.step() {
                Ok(Step::More) => break,
                Ok(Step::Pdu(received)) => received,
                Ok(Step::Place(_)) | Err(_) => return,
            };
            let mut out = Vec::new();
            let step = login.take(
                &received.header,
                received.data.bytes(),
                &directory,
                &|tsih| tsih == 1,
                &mut out,
            );
            assert!(out.len() < 16 * 1024, "one request makes a bounded answer");
            match step {
                LoginStep::Continue => {}
                LoginStep::Ready(_) => return login.accept(1, 8, &mut out),
                LoginStep::Failed(_) => return,
            }
        }
    }
}

/// Gives `data` to a session; the first byte says which digests and which ways of data were agreed on.
pub fn fuzz_session(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else {
        return;
    };
    let mut session = session(control);
    let mut rest = data;
    let mut waker = Context::from_waker(Waker::noop());
    loop {
        session.poll_events(&mut waker);
        let advanced = session.advance();
        let waiting = session.output().len();
        assert!(
            waiting <= 20 << 20,
            "more than one command waits: {waiting}"
        );
        session.sent(waiting);
        session.settle();
        let mut at_rest = session.is_over();
        match advanced {
            Ok(()) if session.wants_input() => {
                match session.poll_fill(Pin::new(&mut rest), &mut waker) {
                    Poll::Ready(Ok(count)) if count > 0 => {}
                    _ => at_rest = true,
                }
            }
            Ok(()) => std::thread::yield_now(),
            Err(SessionError::Silent(_)) => unreachable!("nobody tells the time"),
            Err(_) => at_rest = true,
        }
        if at_rest {
            session.abandon();
            while session.poll_at_rest(&mut waker).is_pending() {
                std::thread::yield_now();
            }
            return;
        }
    }
}

fn session(control: u8) -> FullFeature {
    let initiator = Initiator {
        name: "iqn.2026-01.fuzz:initiator".to_owned(),
        address: ([127, 0, 0, 1], 1).into(),
    };
    let opened = directory(false)
        .open(TARGET, &initiator)
        .expect("everybody may use it");
    let established = Established {
        name: SessionName {
            target: TARGET.to_owned(),
            initiator: initiator.name.clone(),
            isid: [1; 6],
            portal_group: 1,
        },
        initiator,
        kind: if control & 0x80 == 0 {
            SessionKind::Normal
        } else {
            SessionKind::Discovery
        },
        cid: 0,
        reinstates: None,
        parameters: Parameters {
            digests: Digests {
                header: false,
                data: control & 1 != 0,
            },
            initial_r2t: control & 2 != 0,
            immediate_data: control & 4 != 0,
            own_segment_bytes: 1 << 16,
            max_outstanding_r2t: u16::from(control >> 3 & 3) + 1,
            ..Parameters::default()
        },
        opened: (control & 0x80 == 0).then_some(opened),
        exp_cmd_sn: 1,
        stat_sn: 1,
    };
    let timing = Timing {
        ping_after: Duration::from_secs(1),
        ping_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
    };
    let around = Surroundings {
        pool: Arc::new(BlockingPool::start(1, 1).expect("the system has a thread left")),
        metrics: Metrics::unregistered(),
        payloads: PayloadBuffers::new(0),
        budget: Arc::new(Budget::new(1 << 20)),
        neighbours: Arc::new(NoNeighbours),
        names: Arc::new(OneName),
        limits: SessionLimits {
            queue_depth: 16,
            in_flight_bytes: 1 << 20,
        },
        timing,
    };
    FullFeature::start(&established, Receiver::new(8192), around, None)
}

struct OneName;

impl Names for OneName {
    fn targets(&self) -> Vec<(String, Vec<String>)> {
        vec![(TARGET.to_owned(), vec!["127.0.0.1:3260,1".to_owned()])]
    }

    fn own(&self) -> Option<String> {
        None
    }
}

fn directory(with_chap: bool) -> StaticDirectory {
    let target = Target::new(TargetIdentity {
        name: TARGET.to_owned(),
        ports: vec![TargetPort {
            relative_id: 1,
            name: format!("{TARGET},t,0x0001"),
        }],
    });
    target
        .attach(
            0,
            Arc::new(MemoryDisk::new(8 << 20)),
            UnitOptions::default(),
        )
        .expect("the number is free");
    let account = || ChapAccount {
        name: "user".to_owned(),
        secret: Secret::new(b"twelve bytes").expect("that is long enough"),
    };
    let authentication = if with_chap {
        Authentication::Chap(Arc::new(ChapPolicy {
            accounts: vec![account()],
            own: Some(account()),
            algorithms: ChapAlgorithm::ALL.to_vec(),
        }))
    } else {
        Authentication::None
    };
    let directory = StaticDirectory::new();
    let rule = AccessRule {
        initiators: InitiatorPattern::new("*"),
        luns: LunMask::All,
        authentication,
    };
    directory.add(target, "", vec![rule]);
    directory
}

const TARGET: &str = "iqn.2026-01.fuzz:target";
