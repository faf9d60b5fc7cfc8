//! Learning rates against the reference's code and its published training log.
#![allow(clippy::unwrap_used)]

mod common;

use common::{golden, json};
use serde_json::Value;
use shike_train::config::schedule::Schedule;

fn stage_of(stage: &Value) -> Schedule {
    let schedule = Schedule::WarmupCosine {
        base_lr: stage["base_lr"].as_f64().unwrap(),
        warmup_lr: stage["warmup_lr"].as_f64().unwrap(),
        warmup_epochs: stage["warmup_epochs"].as_u64().unwrap() as usize,
        total_epochs: stage["T_max"].as_u64().unwrap() as usize,
        eta_min: stage["eta_min"].as_f64().unwrap(),
    };
    schedule.validate().unwrap();
    schedule
}

fn assert_close(actual: f64, expected: f64, at: &str) {
    assert!(
        (actual - expected).abs() <= 1e-12,
        "{at}: {actual} is not {expected}"
    );
}

#[test]
fn golden_schedule_json() {
    let Some(golden) = golden("golden_schedule_json") else {
        return;
    };
    let golden = json(golden.join("schedule/schedule.json"));
    let mut cases = 0;
    for name in ["stage1", "stage2"] {
        let stage = &golden[name];
        let schedule = stage_of(stage);
        let rates = stage["lr"].as_array().unwrap();
        for (epoch, lr) in rates.iter().enumerate() {
            let at = format!("{name} epoch {epoch}");
            assert_close(schedule.lr(epoch), lr.as_f64().unwrap(), &at);
            cases += 1;
        }
        let after_last = stage["lr_after_last"].as_f64().unwrap();
        assert_close(schedule.lr(rates.len()), after_last, name);
        cases += 1;
    }
    assert!(cases > 2);
    println!("GOLDEN schedule: {cases} cases ran");
}

/// Both CSV files number the epochs through: stage 2 goes on where stage 1 ends.
#[test]
fn golden_schedule_csv() {
    let Some(golden) = golden("golden_schedule_csv") else {
        return;
    };
    let folder = golden.join("schedule");
    let golden = json(folder.join("schedule.json"));
    let stages = [stage_of(&golden["stage1"]), stage_of(&golden["stage2"])];
    let first = [0, golden["stage1"]["lr"].as_array().unwrap().len()];
    let mut cases = 0;
    for (file, exact, printed) in [
        ("lr_per_epoch.csv", Some("lr_code"), "lr_log"),
        ("log_curve.csv", None, "lr"),
    ] {
        let path = folder.join(file);
        let mut reader =
            csv::Reader::from_path(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let headers = reader.headers().unwrap().clone();
        let column = |name: &str| headers.iter().position(|h| h == name).unwrap();
        let mut rows = 0;
        for record in reader.records() {
            let record = record.unwrap();
            let number = |name: &str| record[column(name)].parse::<f64>().unwrap();
            let stage = number("stage") as usize - 1;
            let epoch = number("epoch") as usize;
            let lr = stages[stage].lr(epoch - first[stage]);
            let at = format!("{file} epoch {epoch}");
            if let Some(exact) = exact {
                assert_close(lr, number(exact), &at);
            }
            // The log prints five significant digits.
            let rounded: f64 = format!("{lr:.4e}").parse().unwrap();
            assert_eq!(rounded, number(printed), "{at}: {lr}");
            rows += 1;
        }
        assert!(rows > 0, "{file} has no rows");
        cases += rows;
    }
    println!("GOLDEN schedule csv: {cases} cases ran");
}

/// The short run: T_max 12 with 5 warm-up epochs, then T_max 6 with 3.
#[test]
fn golden_short_run_rates() {
    let Some(golden) = golden("golden_short_run_rates") else {
        return;
    };
    let mut cases = 0;
    for file in ["seed0.json", "seed1.json"] {
        let run = json(golden.join("short_run").join(file));
        let usize_at = |v: &Value| v.as_u64().unwrap() as usize;
        let stage = |warmup_lr, warmup_epochs, total_epochs| Schedule::WarmupCosine {
            base_lr: 0.05,
            warmup_lr,
            warmup_epochs: usize_at(warmup_epochs),
            total_epochs: usize_at(total_epochs),
            eta_min: 0.0,
        };
        let stages = [
            stage(0.15, &run["warmup"][0], &run["stage1_epochs"]),
            stage(0.1, &run["warmup"][1], &run["stage2_epochs"]),
        ];
        for row in run["rows"].as_array().unwrap() {
            let (stage, epoch) = (usize_at(&row["stage"]), usize_at(&row["epoch"]));
            // The file numbers the epochs through; a schedule starts anew in stage 2.
            let first = [0, usize_at(&run["stage1_epochs"])];
            let epoch = epoch - first[stage - 1];
            let at = format!("{file} stage {stage} epoch {epoch}");
            let lr = row["lr"].as_f64().unwrap();
            assert_close(stages[stage - 1].lr(epoch), lr, &at);
            cases += 1;
        }
    }
    assert!(cases > 0);
    println!("GOLDEN short_run learning rates: {cases} cases ran");
}
