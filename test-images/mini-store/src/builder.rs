//! Adds members one after another, each named by what it is made of, as Nix does.

use std::collections::BTreeMap;

use crate::STORE_DIR;
use crate::derivation::Derivation;
use crate::nar::{self, Nar};
use crate::store_path::{self, base32, sha256};
use crate::tree::Tree;

/// One store path.
#[derive(Clone, Debug)]
pub struct Member {
    /// Hash part, `-`, name.
    pub base: String,
    /// What lies in the store; nothing for an output that is not built.
    pub tree: Option<Tree>,
    /// Size and hash of the contents; zeros for an output that is not built.
    pub nar: Nar,
    /// Labels of the members that it mentions, sorted.
    pub references: Vec<String>,
    /// Label of the derivation it was built by.
    pub deriver: Option<String>,
    /// Of a derivation: output name → label.
    pub outputs: BTreeMap<String, String>,
    /// What the database records of a content-addressed path.
    pub ca: Option<String>,
}

#[derive(Default)]
pub(crate) struct Builder {
    members: BTreeMap<String, Member>,
    modulo: BTreeMap<String, [u8; 32]>,
}

impl Builder {
    pub(crate) fn finish(self) -> BTreeMap<String, Member> {
        self.members
    }

    /// The full path of a member.
    pub(crate) fn at(&self, label: &str) -> String {
        format!("{STORE_DIR}/{}", self.members[label].base)
    }

    fn insert(&mut self, label: &str, member: Member) {
        assert!(self.members.insert(label.to_owned(), member).is_none(), "the label '{label}' is used twice");
    }

    /// Adds a source, as `nix-store --add` does.
    pub(crate) fn source(&mut self, label: &str, name: &str, tree: Tree) {
        let nar = nar::of(&tree);
        let member = Member {
            base: store_path::of_source(&nar.sha256, name),
            ca: Some(format!("fixed:r:sha256:{}", base32(&nar.sha256))),
            ..unbuilt(String::new(), None)
        };
        self.insert(label, Member { tree: Some(tree), nar, ..member });
    }

    /// Adds a derivation `LABEL.drv` and its outputs, which [`Builder::built`] fills: `LABEL` for `out`,
    /// `LABEL-OUTPUT` for others. `inputs` are labels of sources and of outputs of other
    /// derivations.
    pub(crate) fn derive(&mut self, label: &str, name: &str, outputs: &[&str], inputs: &[&str]) {
        let mut derivation = self.plain(name, inputs);
        derivation.outputs = outputs.iter().map(|o| ((*o).to_owned(), String::new())).collect();
        let modulo = derivation.modulo(&self.modulo);
        for (output, path) in &mut derivation.outputs {
            *path = format!("{STORE_DIR}/{}", store_path::of_output(output, &modulo, name));
        }
        self.add_derivation(label, name, &derivation);
    }

    /// Adds a derivation whose only output is the file `contents`, known beforehand, and that output.
    pub(crate) fn fixed(&mut self, label: &str, name: &str, contents: &str) {
        let flat = sha256(contents.as_bytes());
        let mut derivation = self.plain(name, &[]);
        derivation.fixed = Some(flat);
        let path = format!("{STORE_DIR}/{}", store_path::of_fixed(&flat, name));
        derivation.outputs.insert("out".to_owned(), path);
        self.add_derivation(label, name, &derivation);
        self.built(label, Tree::file(contents));
        if let Some(member) = self.members.get_mut(label) {
            member.ca = Some(format!("fixed:sha256:{}", base32(&flat)));
        }
    }

    fn plain(&self, name: &str, inputs: &[&str]) -> Derivation {
        let mut derivation = Derivation {
            builder: "/bin/sh".to_owned(),
            sources: vec![self.at("builder")],
            env: [
                ("name", name),
                ("builder", "/bin/sh"),
                ("system", "x86_64-linux"),
                ("notes", "a \"quoted\" word, a \\ and a\ttab\nand a line"),
            ]
            .map(|(variable, value)| (variable.to_owned(), value.to_owned()))
            .into(),
            ..Derivation::default()
        };
        for input in inputs {
            let member = &self.members[*input];
            derivation.env.insert(format!("in_{}", input.replace('-', "_")), self.at(input));
            let Some(deriver) = &member.deriver else {
                derivation.sources.push(self.at(input));
                continue;
            };
            let outputs = &self.members[deriver].outputs;
            let output =
                outputs.iter().find(|(_, label)| label == input).expect("it has this output").0.clone();
            derivation.inputs.entry(self.at(deriver)).or_default().push(output);
        }
        derivation.sources.sort();
        for outputs in derivation.inputs.values_mut() {
            outputs.sort();
        }
        derivation
    }

    fn add_derivation(&mut self, label: &str, name: &str, derivation: &Derivation) {
        let text = derivation.text();
        let mut references: Vec<String> =
            derivation.inputs.keys().chain(&derivation.sources).cloned().collect();
        references.sort();
        let base = store_path::of_text(text.as_bytes(), &references, &format!("{name}.drv"));
        let drv = format!("{label}.drv");
        self.modulo.insert(format!("{STORE_DIR}/{base}"), derivation.modulo(&self.modulo));
        let mut outputs = BTreeMap::new();
        for (output, path) in &derivation.outputs {
            let of = if output == "out" { label.to_owned() } else { format!("{label}-{output}") };
            let base = path.rsplit('/').next().unwrap_or(path);
            self.insert(&of, unbuilt(base.to_owned(), Some(drv.clone())));
            outputs.insert(output.clone(), of);
        }
        let mut labels: Vec<String> = references.iter().map(|path| self.label_of(path)).collect();
        labels.sort();
        let tree = Tree::file(text.as_bytes());
        let nar = nar::of(&tree);
        let ca = Some(format!("text:sha256:{}", base32(&sha256(text.as_bytes()))));
        self.insert(
            &drv,
            Member { base, tree: Some(tree), nar, references: labels, deriver: None, outputs, ca },
        );
    }

    fn label_of(&self, path: &str) -> String {
        let found = self.members.iter().find(|(_, member)| path.ends_with(&member.base));
        found.expect("a reference is a member").0.clone()
    }

    /// Gives an output its contents. What it refers to is found in them, as Nix does.
    pub(crate) fn built(&mut self, label: &str, tree: Tree) {
        let mentioned = |(label, member): (&String, &Member)| {
            let hash = &member.base[..32];
            (!label.ends_with(".drv") && tree.mentions(hash)).then(|| label.clone())
        };
        let references: Vec<String> = self.members.iter().filter_map(mentioned).collect();
        let member = self.members.get_mut(label).expect("its derivation was added");
        member.nar = nar::of(&tree);
        member.references = references;
        member.tree = Some(tree);
    }
}

fn unbuilt(base: String, deriver: Option<String>) -> Member {
    Member {
        base,
        tree: None,
        nar: Nar { size: 0, sha256: [0; 32] },
        references: Vec::new(),
        deriver,
        outputs: BTreeMap::new(),
        ca: None,
    }
}
