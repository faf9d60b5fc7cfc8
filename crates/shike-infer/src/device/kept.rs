//! What GPU backends keep between processes.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Has compiled kernels kept, beside what Burn keeps anyway: which of them were the fastest. Without both, every
/// process spends minutes on what the one before it found out. A `cubecl.toml` says where they are kept, `target/`
/// of a cargo workspace or the user's folder for caches unless it does.
///
/// Where a device was opened before, its settings stay.
pub(super) fn keep_kernels() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    CubeClRuntimeConfig::try_set(config);
}
