//! F32, F16 and BF16: one little-endian number per weight.
//!
//! Owns their decoding and encoding. Must not hold anything scaled.

use half::{bf16, f16};

pub(super) fn decode_f32(src: &[u8; 4], dst: &mut [f32; 1]) {
    dst[0] = f32::from_le_bytes(*src);
}

pub(super) fn decode_f16(src: &[u8; 2], dst: &mut [f32; 1]) {
    dst[0] = f16::from_le_bytes(*src).to_f32();
}

pub(super) fn decode_bf16(src: &[u8; 2], dst: &mut [f32; 1]) {
    dst[0] = f32::from_bits(u32::from(u16::from_le_bytes(*src)) << 16);
}

pub(super) fn encode_f32(src: &[f32; 1], dst: &mut [u8; 4]) {
    *dst = src[0].to_le_bytes();
}

pub(super) fn encode_f16(src: &[f32; 1], dst: &mut [u8; 2]) {
    *dst = f16::from_f32(src[0]).to_le_bytes();
}

pub(super) fn encode_bf16(src: &[f32; 1], dst: &mut [u8; 2]) {
    *dst = bf16::from_f32(src[0]).to_le_bytes();
}
