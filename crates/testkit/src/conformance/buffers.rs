//! Buffers that are longer than an operation needs, so that reading or writing too far shows.
//!
//! Owns margins. Must not know operations.

use ops::{Device, DeviceError};

use super::report::Bound;

/// Values behind the end of every buffer.
pub(super) const MARGIN: usize = 5;
/// What outputs hold before a call; no case computes it.
pub(super) const CANARY: f32 = -1234.5;

/// A buffer to be read only: behind its values lie NaN, which spoil any result they enter.
pub(super) fn input<D: Device>(dev: &D, values: &[f32]) -> Result<D::Buffer, DeviceError> {
    with_margin(dev, values, f32::NAN)
}

/// A buffer to be changed in place.
pub(super) fn in_out<D: Device>(dev: &D, values: &[f32]) -> Result<D::Buffer, DeviceError> {
    with_margin(dev, values, CANARY)
}

/// A buffer to be written.
pub(super) fn output<D: Device>(dev: &D, len: usize) -> Result<D::Buffer, DeviceError> {
    in_out(dev, &vec![CANARY; len])
}

/// The first `len` values and the margin behind them.
pub(super) fn read<D: Device>(dev: &D, buffer: &D::Buffer, len: usize) -> Result<Vec<f32>, DeviceError> {
    let mut values = vec![0.0; len + MARGIN];
    dev.read(buffer, &mut values)?;
    Ok(values)
}

/// Bounds of a buffer's values, and of the margin, which nothing may touch.
pub(super) fn with_margin_bounds(mut bounds: Vec<Bound>) -> Vec<Bound> {
    bounds.extend([Bound::Bits; MARGIN]);
    bounds
}

fn with_margin<D: Device>(dev: &D, values: &[f32], margin: f32) -> Result<D::Buffer, DeviceError> {
    let padded: Vec<f32> = values.iter().copied().chain([margin; MARGIN]).collect();
    let mut buffer = dev.alloc(padded.len())?;
    dev.write(&padded, &mut buffer)?;
    Ok(buffer)
}
