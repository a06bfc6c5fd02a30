//! Reading the configuration.

/// Reads a field that the daemon may be writing.
macro_rules! setting {
    ($config:expr, $($field:tt)+) => {
        // SAFETY: the configuration is a map's element, valid for every bit pattern.
        unsafe { core::ptr::read_volatile(&raw const (*$config).$($field)+) }
    };
}
pub(crate) use setting;
