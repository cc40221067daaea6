//! Parity with scipy.stats; small cases by hand; bad input.

use super::*;
use crate::fixture::{self, assert_close};

#[test]
fn paired_comparisons_match_scipy() {
    let Some(f) = fixture::load("stats_compare") else { return };
    let values: serde_json::Value = serde_json::from_str(&f.metadata("values")).unwrap();
    for case in ["small", "large"] {
        let (v, c) = (f.values(&format!("{case}.variant")), f.values(&format!("{case}.control")));
        let expected = values[case].as_object().unwrap();
        let d: Vec<f64> = v.iter().zip(&c).map(|(v, c)| v - c).collect();
        let signed = |alternative| wilcoxon(&d, alternative, Zeros::Drop).unwrap();
        for (name, value) in expected {
            let got = match name.as_str() {
                "wilcoxon_greater_p" => superiority(&v, &c).unwrap().p_value,
                "wilcoxon_two_sided_stat" => signed(Alternative::TwoSided).statistic,
                "wilcoxon_two_sided_p" => signed(Alternative::TwoSided).p_value,
                "wilcoxon_noninf_margin_0.1_p" => non_inferiority(&v, &c, 0.1).unwrap().p_value,
                "shapiro_W" => shapiro_wilk(&d).unwrap().statistic,
                "shapiro_p" => shapiro_wilk(&d).unwrap().p_value,
                "ttest_rel_t" => paired_t_test(&v, &c).unwrap().statistic,
                "ttest_rel_p" => paired_t_test(&v, &c).unwrap().p_value,
                "ttest_welch_p" => welch_t_test(&v, &c).unwrap().p_value,
                "mannwhitney_p" => mann_whitney(&v, &c, Alternative::TwoSided).unwrap().p_value,
                "bland_altman_bias" => bland_altman(&v, &c, 0).unwrap().bias,
                "loa_lower_ddof0" => bland_altman(&v, &c, 0).unwrap().lower,
                "loa_upper_ddof0" => bland_altman(&v, &c, 0).unwrap().upper,
                "loa_upper_ddof1" => bland_altman(&v, &c, 1).unwrap().upper,
                "cohen_dz" => cohen_dz(&v, &c).unwrap(),
                "mean_ci95_t" => {
                    let interval = mean_interval(&d, 0.95).unwrap();
                    let upper = value[1].as_f64().unwrap();
                    assert_close(name, &[interval.upper], &[upper], 1e-6, 0.0);
                    interval.lower
                }
                "pearson_r" => pearson(&v, &c).unwrap(),
                "spearman_r" => spearman(&v, &c).unwrap(),
                other => panic!("unknown value `{other}`"),
            };
            let value = value.get(0).unwrap_or(value).as_f64().unwrap();
            let tolerance = if name.starts_with("shapiro") { 1e-5 } else { 1e-6 };
            assert_close(&format!("{case} {name}"), &[got], &[value], tolerance, 0.0);
        }
        assert_eq!(expected.len(), 18);
    }
    let d = f.values("ties.d");
    for (name, zeros) in
        [("wilcoxon_wilcox_two_sided", Zeros::Drop), ("wilcoxon_pratt", Zeros::Pratt)]
    {
        let result = wilcoxon(&d, Alternative::TwoSided, zeros).unwrap();
        let expected = [0, 1].map(|i| values["ties"][name][i].as_f64().unwrap());
        assert_close(name, &[result.statistic, result.p_value], &expected, 1e-6, 0.0);
    }
    let p = f.values("pvals");
    assert_close("holm", &holm(&p).unwrap(), &f.values("holm"), 1e-6, 0.0);
    assert_close("bh", &benjamini_hochberg(&p).unwrap(), &f.values("bh_fdr"), 1e-6, 0.0);
}

#[test]
fn exact_tests_count_by_hand() {
    // three positive differences: 1 of 8 sign patterns is as extreme
    let result = wilcoxon(&[1.0, 2.0, 3.0], Alternative::Greater, Zeros::Drop).unwrap();
    assert_eq!((result.statistic, result.p_value), (6.0, 0.125));
    let result = wilcoxon(&[1.0, 2.0, 3.0], Alternative::Less, Zeros::Drop).unwrap();
    assert_eq!(result.p_value, 1.0);
    // two against three, fully separated: 1 of 10 interleavings on each side
    let result = mann_whitney(&[4.0, 5.0], &[1.0, 2.0, 3.0], Alternative::TwoSided).unwrap();
    assert_eq!((result.statistic, result.p_value), (6.0, 0.2));
    let result = mann_whitney(&[4.0, 5.0], &[1.0, 2.0, 3.0], Alternative::Greater).unwrap();
    assert_eq!(result.p_value, 0.1);
}

#[test]
fn exact_and_normal_p_values_meet() {
    let d: Vec<f64> =
        (0..51).map(|i| (f64::from(i) * 0.7).sin() + 0.2 + f64::from(i) * 1e-4).collect();
    let normal = wilcoxon(&d, Alternative::Greater, Zeros::Drop).unwrap().p_value;
    let exact = wilcoxon(&d[..50], Alternative::Greater, Zeros::Drop).unwrap().p_value;
    assert!((normal / exact).ln().abs() < 0.5, "{normal} {exact}");
    // with ties beyond 13 differences the normal approximation is corrected for them
    let tied: Vec<f64> = (0..20).map(|i| f64::from(i % 5) - 1.5).collect();
    let p = wilcoxon(&tied, Alternative::TwoSided, Zeros::Drop).unwrap().p_value;
    assert!((0.05..0.2).contains(&p), "{p}");
}

#[test]
fn agreement_falls_with_bias_while_correlation_does_not() {
    let a: Vec<f64> = (0..20).map(|i| f64::from(i) + (f64::from(i) * 1.7).sin()).collect();
    let b: Vec<f64> = a.iter().map(|v| v + 3.0).collect();
    assert_close("pearson", &[pearson(&a, &b).unwrap()], &[1.0], 1e-12, 0.0);
    assert_close("self", &[concordance(&a, &a).unwrap()], &[1.0], 1e-12, 0.0);
    assert_close("self", &[intraclass_correlation(&a, &a).unwrap()], &[1.0], 1e-12, 0.0);
    assert!(concordance(&a, &b).unwrap() < 0.95);
    assert!(intraclass_correlation(&a, &b).unwrap() < 0.95);
    // two raters of six targets, mean squares of the analysis of variance by hand
    let (first, second) = ([9.0, 6.0, 8.0, 7.0, 10.0, 6.0], [2.0, 1.0, 4.0, 1.0, 5.0, 2.0]);
    let icc = intraclass_correlation(&first, &second).unwrap();
    let (cases, raters, residual) =
        (4.683_333_333_333_334, 80.083_333_333_333_33, 0.683_333_333_333_333_3);
    let expected = (cases - residual) / (cases + residual + 2.0 / 6.0 * (raters - residual));
    assert_close("icc", &[icc], &[expected], 1e-12, 0.0);
}

#[test]
fn bad_samples_are_named() {
    let text = |result: Result<TestResult>| result.unwrap_err().to_string();
    assert!(text(superiority(&[1.0, 2.0], &[1.0])).contains("got 2 and 1"));
    assert!(text(paired_t_test(&[1.0, f64::NAN], &[1.0, 2.0])).contains("value 2 is NaN"));
    assert!(text(wilcoxon(&[0.0, 0.0], Alternative::Less, Zeros::Drop)).contains("zero"));
    assert!(text(shapiro_wilk(&[1.0, 1.0, 1.0])).contains("do not vary"));
    assert!(text(mann_whitney(&[1.0; 9], &[1.0; 9], Alternative::Less)).contains("equal"));
    assert!(text(non_inferiority(&[1.0], &[1.0], -0.1)).contains("margin"));
    assert!(text(shapiro_wilk(&[1.0, 2.0])).contains("at least 3"));
    assert!(holm(&[0.5, 1.5]).is_err());
    assert!(mean_interval(&[1.0, 2.0], 95.0).is_err());
}
