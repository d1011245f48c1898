//! The position keys of config.json → [`Rope`] and MLA's softmax factor.
//!
//! Owns the spellings: `rope_parameters` is transformers 5's and holds the base too, `rope_scaling` the publishers'.
//! Must not compute frequencies (`ops::rope` does).

use ops::{RopePairing, RopeScaling, rope::yarn_mscale};
use serde_json::json;

use super::keys::{ConfigError, Keys};
use super::{Family, Rope};

#[derive(Clone, Copy)]
enum Kind {
    Default,
    Linear,
    Llama3,
    Yarn,
}

const KINDS: [(&str, Kind); 4] =
    [("default", Kind::Default), ("linear", Kind::Linear), ("llama3", Kind::Llama3), ("yarn", Kind::Yarn)];

/// The rotary embedding, and the factor on MLA's softmax scale: 1, or `m(mscale_all_dim)²` under any scaling.
pub(super) fn read(keys: &Keys<'_>, family: Family) -> Result<(Rope, f64), ConfigError> {
    let pairing = match family {
        Family::DeepseekV2 => RopePairing::Interleaved,
        Family::DeepseekV3 if keys.flag("rope_interleave", true)? => RopePairing::Interleaved,
        _ => RopePairing::Halved,
    };
    let object = match keys.object("rope_parameters", "config.json: rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => keys.object("rope_scaling", "config.json: rope_scaling")?,
    };
    let inner_theta = object.map_or(Ok(None), |o| o.opt_positive("rope_theta"))?;
    let rope_theta = inner_theta.or(keys.opt_positive("rope_theta")?).unwrap_or(10000.0);
    if rope_theta <= 1.0 {
        return Err(keys.error("rope_theta", "a number above 1", &rope_theta.to_string()));
    }
    keys.only("partial_rotary_factor", &json!(1.0))?;
    let Some(object) = object else {
        return Ok((Rope { rope_theta, scaling: RopeScaling::None, pairing }, 1.0));
    };
    object.only("partial_rotary_factor", &json!(1.0))?;
    let key = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = object.choice(key, &KINDS, Some(Kind::Default))?;
    let scaling = match kind {
        Kind::Default => RopeScaling::None,
        Kind::Linear => RopeScaling::Linear { factor: object.positive("factor")? },
        Kind::Llama3 => llama3(keys, &object)?,
        Kind::Yarn => yarn(keys, &object)?,
    };
    let is_mla = matches!(family, Family::DeepseekV2 | Family::DeepseekV3);
    let softmax_mscale = match (kind, nonzero(&object, "mscale_all_dim")?) {
        (Kind::Default, _) | (_, None) => 1.0,
        (_, Some(all)) if is_mla => yarn_mscale(object.positive("factor")?, all).powi(2),
        _ => 1.0,
    };
    Ok((Rope { rope_theta, scaling, pairing }, softmax_mscale))
}

fn nonzero(keys: &Keys<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    Ok(keys.number(key)?.filter(|n| *n != 0.0))
}

/// Context length of pretraining; of two places in the file the outer one wins, as in transformers.
fn original_context(keys: &Keys<'_>, object: &Keys<'_>) -> Result<Option<f64>, ConfigError> {
    let key = "original_max_position_embeddings";
    Ok(keys.opt_positive(key)?.or(object.opt_positive(key)?))
}

fn llama3(keys: &Keys<'_>, object: &Keys<'_>) -> Result<RopeScaling, ConfigError> {
    let low_freq_factor = object.positive("low_freq_factor")?;
    let high_freq_factor = object.positive("high_freq_factor")?;
    if high_freq_factor <= low_freq_factor {
        let expected = format!("more than low_freq_factor ({low_freq_factor})");
        return Err(object.error("high_freq_factor", &expected, &high_freq_factor.to_string()));
    }
    let original = match original_context(keys, object)? {
        Some(original) => original,
        None => object.positive("original_max_position_embeddings")?,
    };
    Ok(RopeScaling::Llama3 {
        factor: object.positive("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings: original,
    })
}

fn yarn(keys: &Keys<'_>, object: &Keys<'_>) -> Result<RopeScaling, ConfigError> {
    let factor = object.positive("factor")?;
    let original = match original_context(keys, object)? {
        Some(original) => original,
        None => keys.positive("max_position_embeddings")?,
    };
    // `attn_factor` multiplies the engine's own factor: R1-0528-Qwen3-8B ships its inverse so that the product is 1.
    let attn_factor = object.opt_positive("attn_factor")?.unwrap_or(1.0);
    let magnitudes = (nonzero(object, "mscale")?, nonzero(object, "mscale_all_dim")?);
    let magnitude = match (object.opt_positive("attention_factor")?, magnitudes) {
        (Some(given), _) => given,
        (None, (Some(mscale), Some(all))) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all),
        (None, _) => yarn_mscale(factor, 1.0) * attn_factor,
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast: object.opt_positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: object.opt_positive("beta_slow")?.unwrap_or(1.0),
        truncate: object.flag("truncate", true)?,
        magnitude,
    })
}
