"""What each number of the pages means; the reasons are in docs/science.md."""

from __future__ import annotations

from typing import Final, NamedTuple


class Term(NamedTuple):
    """A definition.

    Attributes:
        title: What is defined.
        text: The definition.
        why: Why the limits of its light stand where they do; empty without a light.
    """

    title: str
    text: str
    why: str = ""


TERMS: Final[dict[str, Term]] = {
    "lights": Term(
        "Lights",
        "● good (green): the whole 95 % interval is on the good side of the first limit. ▲ check "
        "(amber): no proof either way, or between the limits. ■ bad (red): the whole interval is "
        "beyond the second limit. Seams, checkerboards and removed power are good until the whole "
        "interval is beyond the first limit.",
    ),
    "interval": Term(
        "95 % interval",
        "What other micrographs of the session would give, by resampling those at hand. One "
        "micrograph has none; an open end (…) means that nothing bounds it.",
    ),
    "halves": Term(
        "Re, Ro, De, Do, S",
        "The two raw halves of a micrograph, even and odd, of independent noise; their denoised "
        "versions; and the noise-free signal, which nobody knows.",
    ),
    "correlation": Term(
        "Correlation with the truth, ρ",
        "FRC(De, Ro) / √FRC(Re, Ro), with sums over all frequencies and micrographs after the "
        "high-pass: correlation of a denoised half with the noise-free signal, from data alone. "
        "It needs halves of independent noise, held out of training.",
        "A picture that tells less than the raw one is of no use. That it beats raw is little: "
        "every low-pass does.",
    ),
    "snr_half_dose": Term(
        "SNR at half of the dose, dB",
        "−10 log₁₀(1 − ρ²). Pure noise has 0 dB.",
        "As that of the correlation.",
    ),
    "full_dose": Term(
        "SNR of the mean of both denoised halves, dB",
        "The full-dose result has seen all frames, so no independent image is left to judge it "
        "by. This mean is the nearest that can be measured.",
    ),
    "gain": Term(
        "Gain over a low-pass",
        "FRC(De, Ro) over that of Re with Ro, after the radial filter with the response of the "
        "denoiser. Every filter that depends on spatial frequency alone has 1; above 1 is "
        "information that no low-pass shows, unless a fixed pattern is flagged.",
        "1 is a low-pass of the same response; edges and the width of rings account for some "
        "thousandths.",
    ),
    "signal_transfer": Term(
        "Signal transfer, T",
        "Re Σ De Ro* / Re Σ Re Ro*: the share of the true amplitude that survives. 1 is faithful; "
        "below 1 detail is damped.",
        "Judged by the signal removed, ρ² − T.",
    ),
    "signal_removed": Term(
        "Signal removed, ρ² − T",
        "The mean of all signals that could have been there keeps the share ρ² of the amplitude; "
        "what a model removes beyond that it need not have.",
        "A twentieth of the amplitude is not seen; of a fifth less, detail disappears.",
    ),
    "residual_noise": Term(
        "Residual noise",
        "(var De − cov(De, Do)) / var S, with var S = cov(Re, Ro): noise that is left, over the "
        "power of the signal.",
    ),
    "bias": Term(
        "Bias",
        "(cov(De, Do) + var S − 2 cov(De, Ro)) / var S: error that both halves share, over the "
        "power of the signal: what was lost, and what was invented alike.",
    ),
    "error": Term(
        "Error",
        "E|De − S|² / var S, residual noise and bias together.",
        "An empty image has 1.",
    ),
    "removed_power": Term(
        "Removed power",
        "|Re − De|² over the power of the noise, in the band where it is largest. The best linear "
        "filter leaves less than 1; above 1, what was removed (or drawn) was not noise.",
        "All above the noise was signal, or drawn by the network; the signal is a few hundredths "
        "of the noise where it is weak.",
    ),
    "seams": Term(
        "Seams",
        "Step across the boundaries of tiles above that 32 px beside them, over the standard "
        "deviation of the picture.",
        "256 greys over ± 3 standard deviations: one grey is 0.023; four are seen.",
    ),
    "checkerboard": Term(
        "Checkerboard",
        "What repeats every 2 or 4 px above the frequencies around, over the standard deviation "
        "of the picture.",
        "256 greys over ± 3 standard deviations: one grey is 0.023; four are seen.",
    ),
    "fixed_pattern": Term(
        "Fixed pattern",
        "What the detector adds to every image: halves of different micrographs must not "
        "correlate. It counts as signal in every other number.",
        "Flagged is what is five standard errors above 0 and above the limit of clearice prepare.",
    ),
    "naive_frc": Term(
        "FRC(De, Do), both denoised: no quality",
        "It counts whatever the network adds to both halves as agreement, so it ranks inventions "
        "above the truth. It is shown to be distrusted.",
    ),
    "invention": Term(
        "Invention",
        "Noise, ice without particles and scrambled micrographs through the model, between 400 and "
        "20 Å. It fails if it makes more power of them than a plain filter lets through, blobs as "
        "strong as particles, or the same from independent noise, or if too much of what it shows "
        "of unseen micrographs is not borne out by the other half. A model that passes can still "
        "be wrong: it was asked about noise and about the micrographs at hand.",
        "Each limit lies between what good models and models that were overfitted on purpose gave.",
    ),
    "unsupported": Term(
        "Unsupported share",
        "1 − Σ De Ro / Σ De²: share of the power of results on unseen micrographs that the other "
        "half does not bear out. A filter, or a network as it should be, has 0.",
    ),
    "power": Term(
        "Power from nothing",
        "Power of the results of an input that holds nothing, over that of results of real "
        "micrographs; beside it the same of the best radial filter, which can invent nothing.",
    ),
    "blobs": Term(
        "Blobs",
        "Maxima as strong as particles in results of nothing, over those in real results: 0.1 is "
        "one false pick in ten.",
    ),
    "repeats": Term(
        "Correlation from nothing",
        "Largest correlation between results of independent inputs that hold nothing: content "
        "that the network puts everywhere, or at the same places.",
    ),
    "peaks": Term(
        "Highest |z|",
        "Largest deviation in results of nothing, in standard deviations; in brackets that of "
        "Gaussian fields of the same spectrum. Not judged.",
    ),
    "trust": Term(
        "Trust",
        "Squared correlation of the denoised micrograph with the true signal that is to be "
        "expected in a window of 150 Å, both between 400 and 20 Å; from independently denoised "
        "halves against the other raw half, calibrated on simulation. It is an average over "
        "places of equal strength: a false particle as strong as real ones gets their trust.",
    ),
    "picking": Term(
        "Picking",
        "Average precision of one plain picker (a difference of Gaussians) on denoised "
        "micrographs, less that on the best low-pass, against known coordinates.",
        "Good if the interval lies above 0, bad if below: the best low-pass costs nothing.",
    ),
    "average_precision": Term(
        "Average precision",
        "Σ (Rₙ − Rₙ₋₁) Pₙ over all picks, ranked, without interpolation; R recall, P "
        "precision. 1 is perfect.",
    ),
    "recall": Term("Recall", "Share of the known particles that are found, at this precision."),
    "precision": Term("Precision", "Share of the picks that are known particles."),
    "f1": Term("Best F1", "Largest 2 P R / (P + R) of all thresholds."),
    "snr": Term(
        "SNR, dB",
        "−10 log₁₀(1 − r²), r the correlation with the truth after the high-pass. Pure noise has "
        "0 dB.",
    ),
    "psnr": Term(
        "PSNR, dB",
        "10 log₁₀(range² / mean squared error) after the best affine fit to the truth, whose range "
        "it is.",
    ),
    "ssim": Term("SSIM", "Structural similarity with the truth; 1 is equal."),
    "frc": Term(
        "Fourier ring correlation (FRC)",
        "Re Σ X Y* / √(Σ|X|² Σ|Y|²) over a ring or band of spatial frequencies, pooled over "
        "micrographs.",
    ),
    "rho": Term(
        "ρ",
        "FRC(De, Ro) / √FRC(Re, Ro): correlation of a denoised half with the truth, from data "
        "alone. It needs halves of equal dose, held out of training.",
    ),
    "best_gaussian": Term(
        "Best Gaussian",
        "The Gaussian low-pass, of 59 widths from 0.5 to 15 px, that scores best on these very "
        "micrographs.",
    ),
    "wiener": Term(
        "Radial Wiener",
        "The best filter that depends on spatial frequency alone; “oracle” if it was given the "
        "truth.",
    ),
    "power_spectrum": Term(
        "Radial power", "|F|² a pixel, mean over each ring of spatial frequencies."
    ),
    "loss": Term("Loss", "What training makes small; docs/losses.md has the formulas."),
}

# Of the lights.
TITLES: Final = {
    "correlation": "Correlation with the truth",
    "snr_half_dose": "SNR at half of the dose",
    "full_dose": "SNR of the mean of both halves",
    "gain": "Gain over a low-pass",
    "signal_transfer": "Signal kept",
    "signal_removed": "Signal removed needlessly",
    "residual_noise": "Noise left",
    "bias": "Bias",
    "error": "Error",
    "removed_power": "Removed power",
    "seams": "Seams between tiles",
    "checkerboard": "Checkerboard",
    "fixed_pattern": "Fixed pattern",
    "naive_frc": "FRC of both denoised: no quality",
    "invention": "Invention",
    "picking": "Picking",
}

# Headings of columns and rows that lead to a definition.
_NAMES: Final = {title: key for key, title in TITLES.items()} | {
    "SNR, dB": "snr",
    "PSNR, dB": "psnr",
    "SSIM": "ssim",
    "ρ": "rho",
    "ρ, raw": "rho",
    "gain": "gain",
    "T": "signal_transfer",
    "residual noise": "residual_noise",
    "bias": "bias",
    "FRC(De, Do)": "naive_frc",
    "95 %": "interval",
    "best Gaussian": "best_gaussian",
    "radial Wiener": "wiener",
    "mean trust": "trust",
    "trust > ½": "trust",
    "trust < 0.1": "trust",
    "power": "power",
    "of a filter": "power",
    "blobs": "blobs",
    "correlation": "repeats",
    "highest |z|": "peaks",
    "average precision": "average_precision",
    "best F1": "f1",
    "verdict": "lights",
}


def term_of(heading: str) -> str | None:
    """Return the key of the definition that a heading leads to."""
    if heading.startswith("recall"):
        return "recall"
    if heading.startswith(TITLES["picking"]):
        return "picking"
    return _NAMES.get(heading)
