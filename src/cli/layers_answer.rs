//! What `nixview layers` answers, as a table, CSV and JSON.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::du_answer::table_csv;
use super::output::{Output, size};
use super::{CliError, ErrorContext};
use crate::store::{StoreDir, StorePath};
use crate::usage::oci_layers::archive::Compression;
use crate::usage::oci_layers::run::Simulated;
use crate::usage::oci_layers::{Identity, Sharing};

/// An environment that was simulated.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfEnvironment {
    /// What it is called.
    pub name: String,
    /// What was given for it.
    pub given: String,
    /// The number of its store paths.
    pub paths: usize,
    /// The sum of their NARs in bytes.
    pub nar_size: u64,
}

/// How layers were compressed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Compressed {
    how: &'static str,
    level: i64,
}

impl Compressed {
    /// As it is told.
    #[must_use]
    pub fn of(compression: Compression) -> Self {
        match compression {
            Compression::Gzip { level } => Self { how: "gzip", level: level.into() },
            Compression::Zstd { level } => Self { how: "zstd", level: level.into() },
        }
    }
}

/// Where the popularity of packages is from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PopularityFrom {
    /// The references in Nix's database.
    Database(PathBuf),
    /// A file.
    File(PathBuf),
}

/// All that is told.
#[derive(Debug)]
pub struct Answer {
    /// The directory of the paths.
    pub dir: StoreDir,
    /// The environments, in the order in which they are pulled.
    pub environments: Vec<OfEnvironment>,
    /// How layers were compressed, if they were.
    pub compressed: Option<Compressed>,
    /// For Nixery, if it was asked.
    pub popularity: Option<PopularityFrom>,
    /// What came of it.
    pub simulations: Vec<Simulated>,
}

/// The answer as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Json<'a> {
    environments: &'a [OfEnvironment],
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed: Option<Compressed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    popularity: Option<&'a PopularityFrom>,
    simulations: Vec<JsonSimulation<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonSimulation<'a> {
    strategy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_layers: Option<usize>,
    layers: Vec<JsonLayer<'a>>,
    images: Vec<JsonImage<'a>>,
    /// A layer is the same if its contents are.
    digest: JsonSharing,
    /// A layer is the same if its contents are, and all below it.
    chain: JsonSharing,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest_compressed: Option<JsonSharing>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLayer<'a> {
    /// Of the full paths in order, each followed by a newline.
    identity: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed: Option<u64>,
    environments: Vec<&'a str>,
    paths: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonImage<'a> {
    environment: &'a str,
    /// From the lowest up, as indexes into the layers.
    layers: &'a [usize],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonSharing {
    distinct: usize,
    shared: usize,
    stored: u64,
    /// By environment, as the others.
    whole: Vec<u64>,
    pulled_in_order: Vec<u64>,
    pulled_with_all_others: Vec<u64>,
}

impl From<Sharing> for JsonSharing {
    fn from(sharing: Sharing) -> Self {
        Self {
            distinct: sharing.distinct,
            shared: sharing.shared,
            stored: sharing.stored,
            whole: sharing.whole,
            pulled_in_order: sharing.in_order,
            pulled_with_all_others: sharing.with_all_others,
        }
    }
}

impl Answer {
    /// With every layer.
    #[must_use]
    pub fn json(&self) -> Json<'_> {
        Json {
            environments: &self.environments,
            compressed: self.compressed,
            popularity: self.popularity.as_ref(),
            simulations: self.simulations.iter().map(|one| self.simulation(one)).collect(),
        }
    }

    fn simulation<'a>(&'a self, one: &'a Simulated) -> JsonSimulation<'a> {
        let name = |at: usize| self.environments.get(at).map_or("", |env| env.name.as_str());
        let layer = |(at, paths): (usize, &Vec<StorePath>)| {
            let paths: Vec<String> = paths.iter().map(|path| format!("{}/{path}", self.dir)).collect();
            JsonLayer {
                identity: identity(&paths),
                bytes: one.sizes.get(at).copied().unwrap_or_default(),
                compressed: one.compressed.as_ref().and_then(|sizes| sizes.get(at).copied()),
                environments: one.images.with_layer(at).into_iter().map(name).collect(),
                paths,
            }
        };
        let images = one.images.images.iter().enumerate();
        JsonSimulation {
            strategy: one.strategy.as_str(),
            max_layers: one.max_layers,
            layers: one.images.layers.iter().enumerate().map(layer).collect(),
            images: images.map(|(at, layers)| JsonImage { environment: name(at), layers }).collect(),
            digest: one.images.sharing(Identity::Digest, &one.sizes).into(),
            chain: one.images.sharing(Identity::Chain, &one.sizes).into(),
            digest_compressed: one
                .compressed
                .as_ref()
                .map(|sizes| one.images.sharing(Identity::Digest, sizes).into()),
        }
    }

    /// A line for each strategy.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(&self, output: &Output) -> Result<(), CliError> {
        let rows = self.simulations.iter().map(|one| {
            let transferred = one.images.sharing(Identity::Digest, transferred(one));
            let unpacked = one.images.sharing(Identity::Chain, &one.sizes);
            [
                one.strategy.to_string(),
                limit(one).unwrap_or_else(|| "-".to_owned()),
                one.images.images.len().to_string(),
                transferred.distinct.to_string(),
                transferred.shared.to_string(),
                size(transferred.stored),
                transferred.in_order.first().copied().map_or_else(|| "-".to_owned(), size),
                transferred.in_order.last().copied().map_or_else(|| "-".to_owned(), size),
                size(unpacked.stored),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let header =
            ["STRATEGY", "MAX", "IMAGES", "DISTINCT", "SHARED", "STORED", "FIRST", "LAST", "UNPACKED"];
        output.table(header, &rows)
    }

    /// A line for each strategy and environment; the compressed columns are empty if nothing was compressed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn csv(&self, output: &Output) -> Result<(), CliError> {
        const HEADER: [&str; 12] = [
            "STRATEGY",
            "MAX_LAYERS",
            "ENVIRONMENT",
            "LAYERS",
            "BYTES",
            "PULLED_IN_ORDER",
            "PULLED_WITH_ALL_OTHERS",
            "UNPACKED_IN_ORDER",
            "UNPACKED_WITH_ALL_OTHERS",
            "COMPRESSED",
            "COMPRESSED_PULLED_IN_ORDER",
            "COMPRESSED_PULLED_WITH_ALL_OTHERS",
        ];
        let mut rows = Vec::new();
        for one in &self.simulations {
            let digest = one.images.sharing(Identity::Digest, &one.sizes);
            let chain = one.images.sharing(Identity::Chain, &one.sizes);
            let compressed = one.compressed.as_ref().map(|sizes| one.images.sharing(Identity::Digest, sizes));
            let compressed = compressed.unwrap_or_default();
            for (at, env) in self.environments.iter().enumerate() {
                let bytes = |all: &[u64]| all.get(at).map(ToString::to_string).unwrap_or_default();
                rows.push([
                    one.strategy.to_string(),
                    limit(one).unwrap_or_default(),
                    env.name.clone(),
                    one.images.images.get(at).map(|layers| layers.len().to_string()).unwrap_or_default(),
                    bytes(&digest.whole),
                    bytes(&digest.in_order),
                    bytes(&digest.with_all_others),
                    bytes(&chain.in_order),
                    bytes(&chain.with_all_others),
                    bytes(&compressed.whole),
                    bytes(&compressed.in_order),
                    bytes(&compressed.with_all_others),
                ]);
            }
        }
        let text = table_csv(HEADER, &rows).context("cannot write the answer as CSV")?;
        output.write(|out| out.write_all(&text))
    }
}

/// The sizes of what is stored and pulled.
fn transferred(one: &Simulated) -> &[u64] {
    one.compressed.as_ref().unwrap_or(&one.sizes)
}

fn limit(one: &Simulated) -> Option<String> {
    one.max_layers.map(|most| most.to_string())
}

/// What tells whether two layers are the same.
fn identity(paths: &[String]) -> String {
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(path);
        hasher.update("\n");
    }
    format!("sha256-{}", STANDARD.encode(hasher.finalize()))
}
