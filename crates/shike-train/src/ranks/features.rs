//! Pictures that several processes embed.

use serde_json::json;
use shike_data::{Dataset, LoaderConfig, Threads};
use shike_infer::{EmbedEvent, Embedder, FeatureCache, Features, InferError};

use super::Ranks;
use crate::run::receipt::SplitReceipt;

/// Pictures of each process between two meetings of all. What one of them has put into a cache before, the others find.
const ROUND: usize = 1024;

/// As [`Embedder::embed`] by several processes, each of which embeds its share: process 0 has the features, which are
/// those of one process, bit for bit; the others have none.
///
/// # Errors
/// As one process; also if another has other pictures or another trunk. Where one is asked to stop, all do.
pub fn embed(
    ranks: &dyn Ranks,
    embedder: &Embedder,
    dataset: &Dataset,
    (threads, config): (&Threads, LoaderConfig),
    cache: Option<&FeatureCache>,
    tell: &mut dyn FnMut(EmbedEvent),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Features>, InferError> {
    if ranks.is_alone() {
        return Ok(Some(
            embedder.embed(dataset, threads, config, cache, tell, stop)?,
        ));
    }
    let mut mine = json!(embedder.source());
    mine["images"] = json!(SplitReceipt::new(dataset)?);
    ranks.same("has", &mine).map_err(InferError::Mismatch)?;

    let (total, width) = (dataset.len(), embedder.source().width());
    let (mut contents, mut rows, mut embedded) = (vec![], vec![], 0usize);
    let all: Vec<usize> = (0..total).collect();
    for round in all.chunks(ROUND * ranks.size()) {
        let share = round.len().div_ceil(ranks.size());
        let mine = round.chunks(share).nth(ranks.rank()).unwrap_or_default();
        let mut now: usize = 0;
        let mut tell_of_all = |event| match event {
            EmbedEvent::Progress {
                done,
                embedded: here,
                ..
            } => {
                now = here;
                tell(EmbedEvent::Progress {
                    // The others have come as far, more or less.
                    done: round[0] + (done * ranks.size()).min(round.len()),
                    embedded: embedded + here,
                    total,
                });
            }
            event => tell(event),
        };
        let made = match mine {
            [] if stop() => Err(InferError::Stopped { done: 0, total }),
            [] => Ok(None),
            mine => {
                let mine = dataset.select(mine);
                let made = embedder.embed(&mine, threads, config, cache, &mut tell_of_all, stop);
                made.map(Some)
            }
        };
        let (stops, made) = match made {
            Err(InferError::Stopped { .. }) => (true, None),
            made => (false, made?),
        };
        if ranks.any(u8::from(stops)) != 0 {
            let done = round[0];
            return Err(InferError::Stopped { done, total });
        }
        let (hashes, mut made) = made.map_or_else(Default::default, |of| (of.contents, of.rows));
        made.resize(share * width, 0.0);
        let made = ranks.gather(&made);
        let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        let hashes = ranks.gather_bytes(&hashes).concat();
        // Small enough for a float.
        embedded += ranks.gather(&[now as f32]).iter().sum::<f32>() as usize;
        if ranks.writes() {
            // What is missing to whole shares is missing at the end.
            rows.extend_from_slice(&made[..round.len() * width]);
            let (hashes, _) = hashes.as_chunks();
            contents.extend(hashes.iter().map(|hash| u128::from_le_bytes(*hash)));
        }
    }
    let done = total;
    tell(EmbedEvent::Progress {
        done,
        embedded,
        total,
    });
    Ok(ranks
        .writes()
        .then(|| embedder.features(dataset, contents, rows)))
}
