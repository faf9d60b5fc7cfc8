//! A run with the settings of another that trains on its validation pictures as well.

use std::path::Path;

use shike_data::{Dataset, Part};
use shike_infer::load_model;
use shike_train::config::{Schedule, Stage2};
use shike_train::recipe::to_toml;
use shike_train::run::RunPaths;
use shike_train::{DataSource, Recipe, RunConfig, StageConfig, TrainConfig};

use super::job::{Images, Job};
use super::lists::{Pictures, all_of};
use super::resume::refuse_changes;
use super::session::Session;
use super::{RecipeArgs, TrainArgs};
use crate::cli::CliError;
use crate::cli::model::{Which, model_of};
use crate::cli::scoring::same_images;

/// What the run in `folder` did, on its training and validation pictures.
pub(super) fn refit(
    folder: &Path,
    source: impl FnOnce(Option<DataSource>) -> Result<Option<DataSource>, CliError>,
    set: &RecipeArgs,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Job, CliError> {
    let paths = RunPaths::new(folder);
    let model = model_of(&paths, Which::Model)?;
    let recorded = RunConfig::read(&paths)?;
    let mut config = recorded.train;
    refuse_changes("--refit trains", &config, folder, set, args)?;
    let shown = folder.display();
    let data = match source(recorded.data)? {
        Some(source) => source.open()?,
        None => {
            let message = format!("the images of {shown} were made by a program: refit it there");
            return Err(CliError::Usage(message));
        }
    };
    let names = paths.read_classes()?.names;
    for (part, images) in data.parts() {
        same_images(&paths, part, images, &names)?;
    }
    let Some(val) = &data.val else {
        return Err(CliError::Usage(format!(
            "{shown} has no validation pictures: it was trained on all that are not for the test, and there is nothing \
             to refit on"
        )));
    };
    session.progress.message(&format!(
        "refit of {shown}: its {} training and {} validation pictures together, with its settings; no validation \
         score belongs to it{}",
        data.train.len(),
        val.len(),
        match &data.test {
            Some(test) => format!(", and its {} test pictures stay apart", test.len()),
            None => String::new(),
        }
    ));
    let tau = load_model(&model, &session.device)
        .map_err(CliError::from)?
        .1
        .tau;
    as_it_came_to_be(&mut config, &paths, tau)?;
    let sets: Vec<&Dataset> = [Some(&data.train), Some(val), data.test.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    let pictures = Pictures::of(&sets)?;
    let fitted = data.train.len() + val.len();
    let lists = pictures.lists(&[
        (Part::Train, (0..fitted).collect()),
        (Part::Test, (fitted..pictures.labels.len()).collect()),
    ]);
    let left_out = all_of(data.left_out());
    if !left_out.is_empty() {
        session.progress.message(&left_out.to_string());
    }
    let text = to_toml(&config)?;
    let recipe = Recipe::parse(paths.recipe(), &text)?;
    Ok(Job {
        images: Images::listed(lists, left_out)?,
        recipe,
        plan: None,
        group_by: vec![],
    })
}

/// The settings as the run came to choose them on its validation pictures: epochs, τ, and the head on a frozen trunk.
fn as_it_came_to_be(
    config: &mut TrainConfig,
    paths: &RunPaths,
    tau: Option<f64>,
) -> Result<(), CliError> {
    config.patience = None;
    let early = paths.read_receipt()?.ended_early;
    let epochs = |stage| early.iter().find(|early| early.stage == stage);
    let end = |of: &mut StageConfig, stage| {
        let Some(early) = epochs(stage) else { return };
        // Its rates were those of the longer schedule.
        of.epochs = early.epochs;
        if let Schedule::Step { milestones, .. } = &mut of.schedule {
            milestones.retain(|epoch| *epoch < early.epochs);
        }
        if let Some((weights, from)) = of.loss.weights_mut()
            && *from >= early.epochs
        {
            (*weights, *from) = (None, 0);
        }
    };
    end(&mut config.stage1, 1);
    if let Some(stage2) = config.stage2.as_mut().and_then(Stage2::training_mut) {
        end(stage2, 2);
    }
    if let (Some(Stage2::TauNorm { taus }), Some(tau)) = (&mut config.stage2, tau) {
        *taus = vec![tau];
    }
    if let (Some(frozen), Some(choice)) = (&mut config.frozen, paths.read_heads()?) {
        let chosen = &choice.chosen().candidate;
        frozen.heads = vec![chosen.head.clone()];
        frozen.depths.clone_from(&chosen.depths);
    }
    Ok(())
}
