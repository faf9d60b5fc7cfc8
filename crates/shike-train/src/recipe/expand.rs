//! From a recipe's fields, of which most may be left out, to a complete configuration.

use std::path::PathBuf;
use std::sync::LazyLock;

use figment::error::{Error, Kind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shike_data::{BadImages, Normalization, Pipeline, Size};
use shike_infer::model::preprocessing::preprocessing;
use shike_model::{BackboneConfig, ClassifierConfig, ShikeConfig};

use super::card::Card;
use super::pictures::{FIELDS, Pictures};
use crate::config::DataSource;
use crate::config::frozen::TRAINING;
use crate::config::optimizer::gather;
use crate::config::schedule::Schedule;
use crate::config::{Stage2, TrainConfig, warmup_epochs};

/// What a recipe comes to.
pub(super) struct Expanded {
    pub card: Option<Card>,
    pub layout: Option<DataSource>,
    pub data_dir: Option<PathBuf>,
    pub config: TrainConfig,
}

/// Names of networks.
static ARCHS: LazyLock<Vec<&str>> = LazyLock::new(|| BackboneConfig::names().collect());

/// `[model]`: a network by name, or stage by stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ModelTable {
    /// One of [`BackboneConfig::names`]; resnet32 where there is no `backbone` either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<BackboneConfig>,
    /// One path without fusion, linear classifiers, cross-entropy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// That of the data unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "shared_stages")]
    pub shared_layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "fused_stages")]
    pub fused_layers: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage2_heads: Option<bool>,
}

impl ModelTable {
    fn network(self, num_classes: usize, has_stage2: bool) -> Result<ShikeConfig, Box<Error>> {
        let backbone = match (self.arch, self.backbone) {
            (Some(_), Some(_)) => {
                let problem = "`arch` and `backbone` are both given: one is enough";
                return Err(Error::from(problem).with_path("model.backbone").into());
            }
            (None, Some(backbone)) => backbone,
            (arch, None) => {
                let arch = arch.as_deref().unwrap_or("resnet32");
                let found = BackboneConfig::named(arch).ok();
                found.ok_or_else(|| no_name("model.arch", arch, &ARCHS))?
            }
        };
        let num_classes = self.num_classes.unwrap_or(num_classes);
        let mut model = match self.plain {
            true => ShikeConfig::plain(backbone, num_classes).with_stage2_heads(has_stage2),
            false => ShikeConfig::on(backbone, num_classes),
        };
        if let Some(shared) = self.shared_layers {
            model.shared_layers = shared;
            if !model.fused_layers.is_empty() {
                model.fused_layers = (1..=shared).collect();
            }
        }
        let contradicts = match self.experts {
            Some(_) => "model.experts",
            None => "model.fused_layers",
        };
        model.fused_layers = self.fused_layers.unwrap_or(model.fused_layers);
        model.experts = self.experts.unwrap_or(model.experts);
        model.classifier = self.classifier.unwrap_or(model.classifier);
        model.stage2_heads = self.stage2_heads.unwrap_or(model.stage2_heads);
        match self.plain && !model.is_plain() {
            true => {
                let problem = "a plain network is one path without fusion: leave `plain` out, or \
                               `experts` and `fused_layers`";
                Err(Error::from(problem).with_path(contradicts).into())
            }
            false => Ok(model),
        }
    }
}

/// Says that the field at `path` cannot be called `name`.
fn no_name(path: &str, name: &str, names: &'static [&'static str]) -> Box<Error> {
    let kind = Kind::UnknownVariant(name.to_owned(), names);
    Box::new(Error::from(kind).with_path(path))
}

/// Reads the value of the field at `path`; without a path, the settings as a whole.
fn read<T: DeserializeOwned>(path: &str, value: &Value) -> Result<T, Box<Error>> {
    T::deserialize(value).map_err(|error| {
        // Of what is wrong, serde_json gives a text and no more; figment takes lists that are too long.
        let again = figment::value::Value::serialize(value).ok();
        let wrong = again.and_then(|value| value.deserialize::<T>().err());
        let mut wrong = wrong.unwrap_or_else(|| error.to_string().into());
        let inner = std::mem::take(&mut wrong.path);
        wrong = wrong.with_path(path);
        wrong.path.extend(inner);
        wrong.into()
    })
}

fn is_empty_stage(stage2: Option<&Value>) -> bool {
    stage2.and_then(|stage| stage.get("epochs")) == Some(&json!(0))
}

/// What the images are, as far as what is done with them depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Images {
    /// CIFAR's, all of 32×32 pixels.
    Cifar,
    /// Files of any size.
    Pictures,
}

impl Images {
    pub fn of(source: &DataSource) -> Self {
        match source {
            DataSource::Cifar { .. } => Self::Cifar,
            _ => Self::Pictures,
        }
    }
}

/// A pipeline by its name: for pictures of any size one that resizes them.
pub(super) fn named_pipeline(name: &str, size: Size, images: Option<Images>) -> Option<Pipeline> {
    let pipeline = Pipeline::named(name, size)?;
    Some(match images {
        Some(Images::Pictures) => pipeline.resizing(),
        _ => pipeline,
    })
}

/// Completes a recipe for so many classes, and for `images`, where that is known from elsewhere than its
/// `[data]`.
pub(super) fn expand(
    tree: &Value,
    classes: usize,
    images: Option<Images>,
) -> Result<Expanded, Box<Error>> {
    let mut tree = tree.as_object().cloned().unwrap_or_default();
    let mut take = |key| tree.remove(key).unwrap_or_default();
    let card = read("dataset", &take("dataset"))?;
    let layout: Option<DataSource> = read("data", &take("data"))?;
    let images = images.or(layout.as_ref().map(Images::of));
    let data_dir = read("data_dir", &take("data_dir"))?;
    let model: Option<ModelTable> = read("model", &take("model"))?;
    let given_size: Option<Size> = read("image_size", &take("image_size"))?;
    let mut pictures = Map::new();
    for field in FIELDS {
        let value = take(field);
        // An error is of this field.
        read::<Pictures>("", &json!({ field: value }))?;
        pictures.insert(field.to_owned(), value);
    }
    let pictures: Pictures = read("", &Value::Object(pictures))?;

    if let Some(given) = tree.get("bad_images") {
        read::<BadImages>("bad_images", given)?;
    }
    gather(&mut tree);
    if is_empty_stage(tree.get("stage2")) {
        tree.insert("stage2".into(), Value::Null);
    }
    let wants_stage2 = tree.get("stage2").is_some_and(|stage| !stage.is_null());
    let frozen = tree.get("frozen").is_some_and(|frozen| !frozen.is_null());
    if frozen && let Some(field) = TRAINING.into_iter().find(|field| tree.contains_key(*field)) {
        let problem = format!(
            "`{field}` has no effect beside `frozen`: the trunk is not trained; leave out one of them"
        );
        return Err(Error::from(problem).with_path(field).into());
    }
    let model = model.unwrap_or_default().network(classes, wants_stage2)?;
    let epochs = ["stage1", "stage2"].map(|stage| {
        let epochs = tree.get(stage).and_then(|stage| stage.get("epochs"));
        epochs.and_then(Value::as_u64).map(|n| n as usize)
    });
    let [first, second] = epochs;
    let small = !model.backbone.is_for_photographs();
    let mut base = TrainConfig::for_model(model, [first.unwrap_or(180), second.unwrap_or(20)]);
    // Where nobody knows the images, the paper's experiment of this kind of network is assumed.
    let cifar = images.map_or(small && given_size.is_none(), |images| {
        images == Images::Cifar
    });
    let size = given_size.unwrap_or_else(|| Size::from(if small || cifar { 32 } else { 224 }));
    (base.train_pipeline, base.eval_pipeline, base.normalization) = match cifar {
        true => (
            Pipeline::cifar_train().resized(size),
            Pipeline::cifar_eval().resized(size),
            Normalization::CIFAR10,
        ),
        false => (
            Pipeline::photo_train(size),
            Pipeline::photo_eval(size),
            Normalization::IMAGENET,
        ),
    };
    if frozen {
        (base.eval_pipeline, base.normalization) = preprocessing(&base.model.backbone);
        if let Some(size) = given_size {
            base.eval_pipeline = base.eval_pipeline.resized(size);
        }
        base.train_pipeline = base.eval_pipeline.clone();
        base.stage2 = None;
    }
    for key in ["train_pipeline", "eval_pipeline"] {
        let pipeline = match tree.get(key) {
            Some(Value::String(name)) => {
                let found = named_pipeline(name, size, images);
                json!(found.ok_or_else(|| no_name(key, name, &Pipeline::NAMES))?)
            }
            Some(Value::Array(transforms)) => json!({ "transforms": transforms }),
            _ => continue,
        };
        tree.insert(key.into(), pipeline);
    }
    if let Some(given) = tree.get("normalization") {
        let values = match given {
            Value::String(name) => Normalization::named(name)
                .ok_or_else(|| no_name("normalization", name, &Normalization::NAMES))?,
            given => read("normalization", given)?,
        };
        tree.insert("normalization".into(), json!(values));
    }
    let stages = [
        Some(&base.stage1.schedule),
        base.stage(2).map(|s| &s.schedule),
    ];
    let schedules = stages.map(|schedule| schedule.cloned());
    let method = tree
        .get("stage2")
        .and_then(|stage| stage["method"].as_str());
    let usual = base.stage(2).cloned();
    base.stage2 = match method.and_then(Stage2::method) {
        Some(method) => usual.map(|stage| method.init(stage)),
        None => base.stage2,
    };
    let trains = base.stage(2).is_some();
    let mut base = json!(base);
    for ((key, schedule), epochs) in ["stage1", "stage2"].into_iter().zip(schedules).zip(epochs) {
        let (Some(Value::Object(stage)), Some(schedule)) = (tree.get_mut(key), schedule) else {
            continue;
        };
        if key == "stage2" && !trains {
            continue;
        }
        let default = [180, 20][usize::from(key == "stage2")];
        complete_schedule(key, stage, &schedule, epochs.unwrap_or(default))?;
    }
    merge(&mut base, Value::Object(tree));
    let mut config: TrainConfig = read("", &base)?;
    for pipeline in [&mut config.train_pipeline, &mut config.eval_pipeline] {
        *pipeline = pictures.apply(pipeline);
    }
    let pipelines = [&config.train_pipeline, &config.eval_pipeline];
    let makes = |size| pipelines.iter().any(|p| p.output_size() == Some(size));
    if let Some(given) = given_size.filter(|size| !makes(*size)) {
        let problem =
            format!("{given} has no effect: both pipelines are spelt out, and make other sizes");
        return Err(Error::from(problem).with_path("image_size").into());
    }
    if let Some(fit) = pictures
        .fit
        .filter(|_| pipelines.iter().all(|p| p.fit().is_none()))
    {
        let problem = format!(
            "{} has no effect: both pipelines are spelt out, and resize nothing",
            fit.name()
        );
        return Err(Error::from(problem).with_path("fit").into());
    }
    Ok(Expanded {
        card,
        layout,
        data_dir,
        config,
    })
}

/// Fills in what a stage's schedule leaves out: `lr` of the stage is its peak, the first rate is a
/// third of it, and it lasts as long as the stage.
fn complete_schedule(
    key: &str,
    stage: &mut Map<String, Value>,
    base: &Schedule,
    epochs: usize,
) -> Result<(), Box<Error>> {
    let lr = stage.remove("lr");
    let given = stage.get("schedule");
    if !given.is_none_or(Value::is_object) {
        // serde says what is wrong.
        return Ok(());
    }
    let mut schedule = given.cloned().unwrap_or_else(|| json!({}));
    let Some(fields) = schedule.as_object_mut() else {
        return Ok(());
    };
    let kind = fields
        .entry("kind")
        .or_insert_with(|| json!("warmup_cosine"));
    let kind = kind.as_str().unwrap_or_default().to_owned();
    let peak = if kind == "constant" {
        "lr"
    } else {
        "warmup_lr"
    };
    if let Some(lr) = lr {
        // Before it is taken for something that it is not.
        read::<f64>(&format!("{key}.lr"), &lr)?;
        if fields.insert(peak.into(), lr).is_some() {
            let problem = format!("`lr` and `schedule.{peak}` are the same rate: one is enough");
            return Err(Error::from(problem)
                .with_path(&format!("{key}.schedule.{peak}"))
                .into());
        }
    }
    let Schedule::WarmupCosine {
        base_lr: first,
        warmup_lr: highest,
        ..
    } = base
    else {
        return Ok(());
    };
    let mut default = |key: &str, value: Value| {
        fields
            .entry(key)
            .or_insert(value)
            .as_f64()
            .unwrap_or(f64::NAN)
    };
    match kind.as_str() {
        "warmup_cosine" => {
            let peak = default("warmup_lr", json!(highest));
            let start = default("base_lr", json!(first * (peak / highest)));
            default("warmup_epochs", json!(warmup_epochs(epochs, start, peak)));
            default("total_epochs", json!(epochs));
        }
        "step" => {
            let peak = default("warmup_lr", json!(highest));
            default("base_lr", json!(peak / 3.0));
            default("warmup_epochs", json!(0));
            default("gamma", json!(0.1));
        }
        _ => {}
    }
    stage.insert("schedule".into(), schedule);
    Ok(())
}

/// Lays `over` on `base`. A table of another kind replaces that below it as a whole.
fn merge(base: &mut Value, over: Value) {
    let (fields, over) = match (base, over) {
        (Value::Object(fields), Value::Object(over)) => (fields, over),
        (base, over) => {
            *base = over;
            return;
        }
    };
    let kind = ["kind", "method"].iter().any(|tag| {
        let new = over.get(*tag);
        new.is_some() && new != fields.get(*tag)
    });
    if kind {
        fields.clear();
    }
    for (key, value) in over {
        match fields.get_mut(&key) {
            Some(below) => merge(below, value),
            None => drop(fields.insert(key, value)),
        }
    }
}
