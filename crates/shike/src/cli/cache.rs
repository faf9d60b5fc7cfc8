//! The cache of features on the command line.

use clap::Args;
use shike_infer::FeatureCache;

/// The cache of features.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// Most that the cache of features may hold, in GiB; what was not used for the longest time goes
    /// first.
    #[arg(long, value_name = "GIB", default_value = "20", value_parser = bytes)]
    cache_limit: u64,
    /// Neither read nor write the cache of features.
    #[arg(long, conflicts_with = "cache_limit")]
    no_cache: bool,
}

impl CacheArgs {
    /// The cache, unless none is wanted or there is no place for one; the latter is told.
    pub(super) fn open(&self, say: &mut dyn FnMut(&str)) -> Option<FeatureCache> {
        if self.no_cache {
            return None;
        }
        let folder = FeatureCache::default_folder();
        if folder.is_none() {
            say("warning: there is no home folder for a cache; SHIKE_CACHE can name one");
        }
        folder.map(|folder| FeatureCache::new(&folder, self.cache_limit))
    }
}

/// Bytes of a number of GiB.
fn bytes(gib: &str) -> Result<u64, String> {
    match gib.parse::<f64>() {
        Ok(gib) if gib >= 0.0 && gib.is_finite() => Ok((gib * f64::from(1u32 << 30)) as u64),
        _ => Err("it must be a number, 0 or more".into()),
    }
}
