//! Names of checkpoints in which the same network is stored otherwise.
//!
//! EMDiffuse saves its network inside the diffusion process: names begin with `denoise_fn.`, and the
//! noise schedule lies beside it. Its two networks for TorchScript split the `Sequential`s of the
//! residual block (`unet_jit`), and wrap each module of a block once more (`unet_jit2`).

/// Prefix of the network within the diffusion process.
const PREFIX: &str = "denoise_fn.";
/// The noise schedule of training, which the process computes anew.
const SCHEDULE: [&str; 6] = [
    "gammas",
    "sqrt_recip_gammas",
    "sqrt_recipm1_gammas",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
];
/// Layers of the residual block as TorchScript's networks and as all others have them.
const LAYERS: [(&str, &str); 4] = [
    (".in_layers0.0.", ".in_layers.0."),
    (".in_layers1.0.", ".in_layers.2."),
    (".out_layers0.0.", ".out_layers.0."),
    (".out_layers1.2.", ".out_layers.3."),
];

/// The name within the network; none for the noise schedule.
pub(crate) fn inner_name(key: &str) -> Option<&str> {
    if SCHEDULE.contains(&key) {
        return None;
    }
    Some(key.strip_prefix(PREFIX).unwrap_or(key))
}

/// Whether only one of TorchScript's networks has this name.
pub(crate) fn is_scripted(key: &str) -> bool {
    LAYERS.iter().any(|(scripted, _)| key.contains(scripted))
}

/// The usual name of a parameter that one of TorchScript's networks has under `key`.
pub(crate) fn usual_name(key: &str) -> String {
    let mut parts: Vec<&str> = key.split('.').collect();
    let module = match parts[0] {
        "input_blocks" | "output_blocks" => 3,
        "middle_block" => 2,
        _ => parts.len(),
    };
    // the module alone in its wrapper; a parameter's own name follows
    if parts.len() > module + 1 && parts[module] == "0" {
        parts.remove(module);
    }
    let usual = |name: String, (scripted, usual): &(&str, &str)| name.replace(scripted, usual);
    LAYERS.iter().fold(parts.join("."), usual)
}
