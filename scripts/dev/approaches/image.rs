//! OCI images of closures: one layout for all, equal layers built and unpacked once.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::run::{command, output};
use crate::world::{World, closure};

/// As many layers as dockerTools makes unless told otherwise, with the one that it adds for links and the like.
const MOST_LAYERS: &str = "100";

/// Archives that depend on nothing but the contents of the paths, as umoci takes them. Its gzip uses all processors.
const ADD: &str = r#"set -o pipefail; tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --format=posix \
  --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --hard-dereference -C / -c "${@:2}" |
  umoci raw add-layer --image "$1" /dev/stdin"#;

fn layout(home: &Path) -> PathBuf {
    home.join("images")
}

/// The whole closure as one layer.
pub(crate) fn one_layer(home: &Path, name: &str, path: &str) -> Result<()> {
    let image = fresh(home, name)?;
    add(&image, &closure(path)?)?;
    let env = format!("PATH={path}/bin");
    let bash = format!("{path}/bin/bash");
    output(&mut command(
        "umoci",
        ["config", "--image", &image, "--config.env", &env, "--config.cmd", &bash],
    ))?;
    unpack(home, name)
}

/// Layers as dockerTools would cut them. What another image has in the same layout is taken from there.
pub(crate) fn layered(world: &World, home: &Path, name: &str, path: &str) -> Result<()> {
    let mut cut = world.nixview(home);
    cut.args(["layers", "--json", "--strategy", "auto", "--max-layers", MOST_LAYERS, path]);
    let cut: Value = serde_json::from_str(&output(&mut cut)?)?;
    let layers = cut.pointer("/simulations/0/layers").and_then(Value::as_array).ok_or("no layers")?;
    let known = home.join("known");
    fs::create_dir_all(&known)?;
    let file = |layer: &Value| {
        let identity = text(layer, "/identity").map(|identity| identity.replace('/', "_"))?;
        Ok::<PathBuf, Box<dyn std::error::Error>>(known.join(identity))
    };
    let mut missing = Vec::new();
    for layer in layers {
        let file = file(layer)?;
        if !file.exists() {
            missing.push((layer, file));
        }
    }
    if !missing.is_empty() {
        let image = fresh(home, "new")?;
        for (layer, _) in &missing {
            let paths = layer.pointer("/paths").and_then(Value::as_array).ok_or("a layer without paths")?;
            add(&image, &paths.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())?;
        }
        let (manifest, config) = of_tag(home, "new")?;
        let ids = config.pointer("/rootfs/diff_ids").and_then(Value::as_array).ok_or("no diff_ids")?;
        for ((_, file), (blob, id)) in missing.iter().zip(blobs_of(&manifest).zip(ids)) {
            fs::write(file, json!({ "blob": blob, "id": id }).to_string())?;
        }
        output(&mut command("umoci", ["rm", "--image", &image]))?;
    }
    let (mut blobs, mut ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let mut known: Value = serde_json::from_str(&fs::read_to_string(file(layer)?)?)?;
        blobs.push(known.pointer_mut("/blob").map(Value::take));
        ids.push(known.pointer_mut("/id").map(Value::take));
    }
    let config = json!({
        "created": "1970-01-01T00:00:01Z", "architecture": "amd64", "os": "linux",
        "config": { "Env": [format!("PATH={path}/bin")], "Cmd": [format!("{path}/bin/bash")] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = descriptor(home, "application/vnd.oci.image.config.v1+json", &config)?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": blobs });
    tag(home, name, descriptor(home, kind, &manifest)?)?;
    unpack(home, name)
}

/// An image without layers, instead of one of that name.
fn fresh(home: &Path, name: &str) -> Result<String> {
    let layout = layout(home);
    if !layout.exists() {
        output(command("umoci", ["init", "--layout"]).arg(&layout))?;
    }
    let image = format!("{}:{name}", layout.display());
    if of_tag(home, name).is_ok() {
        output(&mut command("umoci", ["rm", "--image", &image]))?;
    }
    output(&mut command("umoci", ["new", "--image", &image]))?;
    Ok(image)
}

fn add(image: &str, paths: &[String]) -> Result<()> {
    let paths = paths.iter().map(|path| path.trim_start_matches('/'));
    output(command("bash", ["-c", ADD, "add", image]).args(paths)).map(drop)
}

/// Writes a blob, and says where it is as images do.
fn descriptor(home: &Path, kind: &str, value: &Value) -> Result<Value> {
    let bytes = serde_json::to_vec(value)?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout(home).join("blobs/sha256").join(&digest), &bytes)?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}

const NAME: &str = "org.opencontainers.image.ref.name";

fn index(home: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(layout(home).join("index.json"))?)?)
}

fn tag(home: &Path, name: &str, mut manifest: Value) -> Result<()> {
    let mut index = index(home)?;
    let all = index.pointer_mut("/manifests").ok_or("index.json has no manifests")?;
    // umoci's word for none.
    if all.is_null() {
        *all = json!([]);
    }
    let all = all.as_array_mut().ok_or("the manifests of index.json are no list")?;
    all.retain(|other| other.pointer("/annotations").and_then(|a| a.get(NAME)) != Some(&json!(name)));
    manifest.as_object_mut().ok_or("no object")?.insert("annotations".to_owned(), json!({ NAME: name }));
    all.push(manifest);
    Ok(fs::write(layout(home).join("index.json"), index.to_string())?)
}

/// Manifest and configuration of an image.
fn of_tag(home: &Path, name: &str) -> Result<(Value, Value)> {
    let index = index(home)?;
    let mut all = index.pointer("/manifests").and_then(Value::as_array).into_iter().flatten();
    let named =
        |other: &&Value| other.pointer("/annotations").and_then(|a| a.get(NAME)) == Some(&json!(name));
    let found = all.find(named).ok_or_else(|| format!("no image {name}"))?;
    let manifest: Value = serde_json::from_str(&fs::read_to_string(blob(home, found)?)?)?;
    let config = blob(home, manifest.pointer("/config").ok_or("no config")?)?;
    let config = serde_json::from_str(&fs::read_to_string(config)?)?;
    Ok((manifest, config))
}

fn blobs_of(manifest: &Value) -> impl Iterator<Item = &Value> {
    manifest.pointer("/layers").and_then(Value::as_array).into_iter().flatten()
}

/// The file that a descriptor names.
fn blob(home: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = text(descriptor, "/digest")?;
    Ok(layout(home).join("blobs/sha256").join(digest.trim_start_matches("sha256:")))
}

/// The compressed layers of an image, as a registry has them.
pub(crate) fn blobs(home: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let (manifest, _) = of_tag(home, name)?;
    blobs_of(&manifest).map(|layer| blob(home, layer)).collect()
}

/// The directories with an image's layers, from the lowest to the highest.
pub(crate) fn unpacked(home: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let blobs = blobs(home, name)?;
    Ok(blobs
        .iter()
        .filter_map(|blob| blob.file_name())
        .map(|digest| home.join("unpacked").join(digest))
        .collect())
}

/// Unpacks layers that no image before had, each into a directory of its own.
fn unpack(home: &Path, name: &str) -> Result<()> {
    for (blob, dir) in blobs(home, name)?.iter().zip(unpacked(home, name)?) {
        if !dir.exists() {
            let part = dir.with_extension("part");
            fs::create_dir_all(&part)?;
            output(command("tar", ["-xpzf"]).arg(blob).arg("-C").arg(&part))?;
            fs::rename(part, dir)?;
        }
    }
    Ok(())
}

/// Takes away what no image needs: each command of umoci leaves a manifest.
pub(crate) fn collect(home: &Path) -> Result<()> {
    output(command("umoci", ["gc", "--layout"]).arg(layout(home))).map(drop)
}

/// How many layers an image has, as skopeo sees it: which proves that others can read it.
pub(crate) fn layers(home: &Path, name: &str) -> Result<f64> {
    let image = format!("oci:{}:{name}", layout(home).display());
    let seen = output(&mut command("skopeo", ["inspect", &image]))?;
    let seen: Value = serde_json::from_str(&seen)?;
    let count = seen.pointer("/Layers").and_then(Value::as_array).ok_or("no layers")?.len();
    Ok(u32::try_from(count)?.into())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).ok_or_else(|| format!("no {pointer} in {value}").into())
}
