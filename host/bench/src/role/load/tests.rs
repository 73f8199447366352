use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;

/// A stream in memory.
struct Memory {
    to: Option<UnboundedSender<Bytes>>,
    from: UnboundedReceiver<Bytes>,
}

impl Pipe for Memory {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.to.as_ref().context("closed")?.send(data)?;
        Ok(())
    }
    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(self.from.recv().await)
    }
    fn finish(&mut self) {
        self.to = None;
    }
}

#[derive(Clone)]
struct Here {
    /// Flips a bit of what this byte offset's chunk holds.
    damage: bool,
}

impl Way for Here {
    type Pipe = Memory;
    async fn open(&self) -> Result<Memory> {
        let (theirs_to, mut raw) = unbounded_channel::<Bytes>();
        let (clean_to, clean) = unbounded_channel();
        let (back_to, back) = unbounded_channel();
        let damage = self.damage;
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(data) = raw.recv().await {
                count += 1;
                let mut data = data.to_vec();
                if damage && count == 3 {
                    data[17] ^= 1;
                }
                // Cut differently than written.
                for piece in data.chunks(1000) {
                    let _ = clean_to.send(Bytes::copy_from_slice(piece));
                }
            }
        });
        tokio::spawn(serve(Memory { to: Some(back_to), from: clean }));
        Ok(Memory { to: Some(theirs_to), from: back })
    }
}

#[tokio::test]
async fn every_load_runs_to_its_end() {
    let way = Here { damage: false };
    let mut held = Vec::new();
    for request in [
        Request::Transfer { streams: 1, bytes: 1_000_000, verify: true },
        Request::Transfer { streams: 3, bytes: 300_000, verify: false },
        Request::Dial { count: 20, parallel: 4 },
        Request::Hold { count: 5 },
    ] {
        run(&way, &mut held, &request).await.unwrap().unwrap();
    }
    assert_eq!(held.len(), 5);
    assert!(run(&way, &mut held, &Request::Counters).await.is_none());
}

#[tokio::test]
async fn damage_is_noticed() {
    let way = Here { damage: true };
    let request = Request::Transfer { streams: 1, bytes: 1_000_000, verify: true };
    assert!(run(&way, &mut Vec::new(), &request).await.unwrap().is_err());
}
