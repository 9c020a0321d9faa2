//! The strategies on small closures computed by hand, and against their definitions written down naively.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

use super::nixery::Popularity;
use super::{Graph, Identity, Images, Layer, LayoutError, Sharing, Strategy};
use super::{auto_layer, nix2container, nixery, popularity, single};
use crate::store::{StoreDir, StorePath};

const MB: u64 = 1_000_000;

/// A store path with a hash part of one digit: sorted as the digits are.
fn path(digit: usize, name: &str) -> StorePath {
    const DIGITS: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
    format!("{}-{name}", String::from(DIGITS[digit] as char).repeat(32)).parse().unwrap()
}

/// A closure of paths that are called as given, with sizes in MB, and what each refers to; the first is the top.
fn closure(paths: &[(&str, u64, &str)]) -> Graph {
    let index = |name: char| paths.iter().position(|(other, ..)| *other == name.to_string()).unwrap();
    let members = paths.iter().enumerate().map(|(at, (name, size, _))| (path(at, name), size * MB)).collect();
    let references: Vec<(usize, usize)> = paths
        .iter()
        .enumerate()
        .flat_map(|(from, (.., to))| to.chars().map(move |to| (from, index(to))))
        .collect();
    Graph::new(StoreDir::default(), members, &references, &[path(0, paths[0].0)]).unwrap()
}

/// The closure that nixpkgs and nix2container explain theirs with; a self reference is added, which counts nothing.
fn example() -> Graph {
    closure(&[
        ("A", 1, "BG"),
        ("B", 2, "CE"),
        ("C", 60, "DEC"),
        ("D", 10, "F"),
        ("E", 30, "F"),
        ("F", 40, "F"),
        ("G", 5, ""),
    ])
}

/// A path that two large ones share.
fn shared() -> Graph {
    closure(&[("R", 1, "PQ"), ("P", 50, "S"), ("Q", 40, "S"), ("S", 10, "")])
}

/// `F E [A B]`: layers of one path without brackets.
fn shown(graph: &Graph, layers: &[Layer]) -> String {
    let words = layers.iter().map(|layer| {
        let names: Vec<&str> = layer.iter().map(|node| graph.name(*node)).collect();
        if names.len() == 1 { names[0].to_owned() } else { format!("[{}]", names.join(" ")) }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_graph_knows_sizes_and_refuses_what_is_none() {
    let graph = example();
    let sizes: Vec<u64> = (0..7).map(|node| graph.closure_size(&[node]) / MB).collect();
    assert_eq!(sizes, [148, 142, 140, 50, 70, 40, 5]);
    assert_eq!(graph.closure_size(&[3, 4]), 80 * MB, "F counts once");
    let members = |count: usize| (0..count).map(|at| (path(at, "x"), 1)).collect::<Vec<_>>();
    let made =
        |members, references: &[(usize, usize)]| Graph::new(StoreDir::default(), members, references, &[]);
    // 3 → 1 ⇄ 2 → 0: the error names one of the cycle, not what is below it.
    match made(members(4), &[(3, 1), (1, 2), (2, 1), (2, 0)]) {
        Err(LayoutError::Cycle(Some(on))) => assert!([path(1, "x"), path(2, "x")].contains(&on), "{on}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(made(members(1), &[(0, 1)]), Err(LayoutError::Malformed(_))));
    assert!(matches!(made(vec![(path(1, "x"), 1), (path(0, "x"), 1)], &[]), Err(LayoutError::Malformed(_))));
    let huge = vec![(path(0, "x"), u64::MAX), (path(1, "x"), 1)];
    assert!(matches!(made(huge, &[]), Err(LayoutError::Malformed(_))));
}

#[test]
fn the_popularity_contest_by_hand() {
    let graph = example();
    assert_eq!(popularity::popularity(&graph).unwrap(), [1, 2, 3, 4, 5, 9, 2]);
    let layers = |available| shown(&graph, &popularity::layers(&graph, available).unwrap());
    assert_eq!(layers(7), "F E D C B G A");
    assert_eq!(layers(6), "F E D C B [G A]");
    assert_eq!(layers(4), "F E D [C B G A]");
    assert_eq!(layers(1), "[F E D C B G A]");
    // R and P, Q below it (2 each); S: two walks, and those to R, P and Q.
    assert_eq!(popularity::popularity(&shared()).unwrap(), [1, 2, 2, 5]);
    // Of equals the name decides, then the hash part: not the other way round.
    let equals = closure(&[("R", 1, "zab"), ("z", 1, ""), ("b", 1, ""), ("a", 1, "")]);
    assert_eq!(shown(&equals, &popularity::layers(&equals, 9).unwrap()), "a b z R");
}

#[test]
fn popularities_beyond_64_bits_keep_their_order_and_beyond_128_are_an_error() {
    // A chain of diamonds: each doubles the walks.
    let diamonds = |count: usize| {
        let node = |at: usize| format!("{}-n", format!("{at:032}").replace(['e', 'o', 't', 'u'], "x"));
        let members = (0..=3 * count).map(|at| (node(at).parse().unwrap(), 1)).collect();
        let references: Vec<(usize, usize)> = (0..count)
            .flat_map(|at| {
                let top = 3 * at;
                [(top, top + 1), (top, top + 2), (top + 1, top + 3), (top + 2, top + 3)]
            })
            .collect();
        Graph::new(StoreDir::default(), members, &references, &[]).unwrap()
    };
    let popular = popularity::popularity(&diamonds(100)).unwrap();
    // 2^100 walks to the last; above it 3·2^i for each diamond i.
    assert_eq!(popular[300], (1_u128 << 100) + (0..100).map(|at| 3 << at).sum::<u128>());
    // 2^126 and 3·(2^126 - 1) just fit; with one diamond more the walks do, and the sum does not.
    assert_eq!(popularity::popularity(&diamonds(126)).unwrap()[378], u128::MAX - 2);
    for count in [127, 130] {
        assert!(matches!(popularity::popularity(&diamonds(count)), Err(LayoutError::Popularity(Some(_)))));
    }
    // nix2container's wraps: at the i-th diamond's top 2^(i+2) - 3 ways end.
    let wrapped = nix2container::popularity(&diamonds(70));
    assert_eq!((wrapped[3 * 10], wrapped[3 * 70]), ((1 << 12) - 3, -3));
}

#[test]
fn auto_layers_by_hand() {
    let graph = example();
    let layers = |graph: &Graph, available| shown(graph, &auto_layer::layers(graph, available));
    assert_eq!(layers(&graph, 1), "[A B C D E F G]");
    assert_eq!(layers(&graph, 2), "[C D E F] [A B G]");
    assert_eq!(layers(&graph, 3), "F [C D E] [A B G]");
    assert_eq!(layers(&graph, 4), "F E [C D] [A B G]");
    assert_eq!(layers(&graph, 5), "F D E C [A B G]");
    assert_eq!(layers(&graph, 7), "G F D E C B A");
    let graph = shared();
    assert_eq!(layers(&graph, 4), "S Q P R");
    assert_eq!(layers(&graph, 3), "[P S] [Q R]", "four are needed at once for Q");
    // Of two of one size the greater base name is first: with room for one more, z has its layer.
    let equals = closure(&[("R", 1, "yz"), ("y", 5, ""), ("z", 5, "")]);
    assert_eq!(layers(&equals, 2), "z [R y]");
}

#[test]
fn nixery_by_hand() {
    let graph = example();
    let popular: Popularity =
        [("F", 500), ("E", 20), ("D", 3), ("G", 2)].map(|(name, count)| (name.to_owned(), count)).into();
    let layers = |budget| shown(&graph, &nixery::layers(&graph, &popular, budget));
    assert_eq!(layers(94), "F E [C D] [A G] B");
    assert_eq!(layers(5), "F E [C D] [A G] B");
    assert_eq!(layers(4), "F E [B A G] [C D]", "142 and 153 are more than 190");
    assert_eq!(layers(3), "F E [B A G C D]");
    assert_eq!(layers(1), "[B A G C D E F]");
    // Without a popularity F is reached over C and over E, and both are below B: A, B and C are large.
    assert_eq!(shown(&graph, &nixery::layers(&graph, &Popularity::new(), 94)), "[C D] [A G] B E F");
}

#[test]
fn nixery_counts_references_by_name() {
    let counts = [("a", 1), ("b", 3), ("a", 1), ("c", 1)];
    let expected: Popularity = [("a".to_owned(), 2), ("b".to_owned(), 3)].into();
    assert_eq!(nixery::popularity(counts), expected, "one is what the unknown count");
    let graph = closure(&[("R", 1, "n"), ("n", 1, "i"), ("i", 1, "")]);
    let layers = nixery::layers(&graph, &[("n".to_owned(), 99)].into(), 94);
    assert_eq!(shown(&graph, &layers), "[R n i]");
    let layers = nixery::layers(&graph, &[("n".to_owned(), 100)].into(), 94);
    assert_eq!(shown(&graph, &layers), "[n i] R");
}

#[test]
fn nix2container_by_hand() {
    let graph = example();
    assert_eq!(nix2container::popularity(&graph), [1, 2, 3, 4, 6, 11, 2]);
    let layers = |most| shown(&graph, &nix2container::layers(&graph, most));
    assert_eq!(layers(7), "F E D C G B A");
    assert_eq!(layers(0), "F E D C G B A");
    assert_eq!(layers(4), "F E D [A B C G]");
    assert_eq!(layers(1), "[A B C D E F G]");
    // Met: R, d, b, c. Two ways end in b and in d, one in c and in R; of equals the one is first that is met later.
    let equals = closure(&[("R", 1, "d"), ("b", 1, ""), ("c", 1, "b"), ("d", 1, "")]);
    assert_eq!(shown(&equals, &nix2container::layers(&equals, 9)), "b d c R");
}

#[test]
fn the_two_ends() {
    let graph = example();
    assert_eq!(shown(&graph, &single::per_path(&graph)), "A B C D E F G");
    assert_eq!(shown(&graph, &single::per_image(&graph)), "[A B C D E F G]");
}

#[test]
fn too_few_layers_are_refused() {
    let graph = example();
    let layers = |strategy: Strategy, most| strategy.layers(&graph, most, &Popularity::new());
    for strategy in [Strategy::Popularity, Strategy::AutoLayer, Strategy::Nixery] {
        assert_eq!(layers(strategy, 1), Err(LayoutError::TooFew { strategy, least: 2, given: 1 }));
        assert_eq!(layers(strategy, 2).unwrap().len(), 1);
    }
    assert!(layers(Strategy::Nix2container, 0).is_err());
    assert_eq!(layers(Strategy::PerPath, 0).unwrap().len(), 7);
}

#[test]
fn sharing_by_hand() {
    let layer = |names: &[usize]| names.iter().map(|name| path(*name, "x")).collect::<Vec<_>>();
    let (a, b, cd, e) = (layer(&[0]), layer(&[1]), layer(&[2, 3]), layer(&[4]));
    let images = Images::new([
        vec![a.clone(), b.clone(), cd.clone()],
        vec![a.clone(), cd.clone()],
        vec![b.clone(), a.clone(), e.clone()],
    ]);
    assert_eq!(images.layers, [a, b, cd, e]);
    assert_eq!(images.images, [vec![0, 1, 2], vec![0, 2], vec![1, 0, 3]]);
    assert_eq!((images.with_layer(2), images.with_layer(3)), (vec![0, 1], vec![2]));
    let sizes = [10, 20, 5, 7];
    let by_digest = Sharing {
        distinct: 4,
        shared: 3,
        stored: 42,
        whole: vec![35, 15, 37],
        in_order: vec![35, 0, 7],
        with_all_others: vec![0, 0, 7],
    };
    assert_eq!(images.sharing(Identity::Digest, &sizes), by_digest);
    // a, a b, a b cd; a, a cd; b, b a, b a e: only the first a lies on the same.
    let by_chain = Sharing {
        distinct: 7,
        shared: 1,
        stored: 77,
        whole: vec![35, 15, 37],
        in_order: vec![35, 5, 37],
        with_all_others: vec![25, 5, 37],
    };
    assert_eq!(images.sharing(Identity::Chain, &sizes), by_chain);
    // The same paths in another order are another archive.
    let images = Images::new([vec![layer(&[0, 1])], vec![layer(&[1, 0])]]);
    assert_eq!(images.layers.len(), 2);
}

/// A closure without cycles: sizes, and the order in which paths refer to later ones only.
fn any_graph() -> impl proptest::strategy::Strategy<Value = Graph> {
    (1..10_usize)
        .prop_flat_map(|count| {
            let order = Just((0..count).collect::<Vec<usize>>()).prop_shuffle();
            let edges = proptest::collection::vec(proptest::bool::weighted(0.35), count * count);
            (order, edges, proptest::collection::vec(1..120 * MB, count), 0..count)
        })
        .prop_map(|(order, edges, sizes, top)| {
            let count = order.len();
            // Few sizes and names, so that there are ties.
            let name = |at: usize| ["x", "y", "nss-cacert-1"][at % 3];
            let size = |at: usize| if at.is_multiple_of(2) { 7 * MB } else { sizes[at] };
            let members = (0..count).map(|at| (path(at, name(at)), size(at))).collect();
            let pairs = (0..count * count).map(|at| (at / count, at % count));
            let references: Vec<(usize, usize)> = pairs
                .filter(|(from, to)| from <= to && edges[from * count + to])
                .map(|(from, to)| (order[from], order[to]))
                .collect();
            Graph::new(StoreDir::default(), members, &references, &[path(top, name(top))]).unwrap()
        })
}

/// The contest as nixpkgs publishes it, by recursion.
fn contest(graph: &Graph, paths: &[usize]) -> Vec<u128> {
    let mut votes = vec![0; graph.count()];
    for path in paths {
        votes[*path] += 1;
        let below = contest(graph, graph.references(*path));
        for other in needed(graph, *path) {
            votes[other] += below[other] + 1;
        }
    }
    votes
}

/// All that a path needs, without itself.
fn needed(graph: &Graph, path: usize) -> BTreeSet<usize> {
    graph.references(path).iter().flat_map(|next| needed(graph, *next).into_iter().chain([*next])).collect()
}

/// Walks that end in a path.
fn walks(graph: &Graph, path: usize) -> i64 {
    1 + graph.referrers(path).iter().map(|other| walks(graph, *other)).sum::<i64>()
}

/// Primaries as nixpkgs publishes them, with a set for each path.
fn primaries(graph: &Graph, available: usize) -> Vec<BTreeSet<usize>> {
    let all: Vec<BTreeSet<usize>> = (0..graph.count()).map(|path| needed(graph, path)).collect();
    let mut sets = vec![BTreeSet::new(); graph.count()];
    let mut open: Vec<usize> = (0..graph.count()).collect();
    open.sort_by_key(|path| (graph.nar_size(*path), graph.paths()[*path].clone()));
    while let Some(primary) = open.pop() {
        let mut next: Vec<BTreeSet<usize>> = sets.clone();
        next[primary] = BTreeSet::from([primary]);
        for dependency in &all[primary] {
            let set = &mut next[*dependency];
            set.retain(|other| !all[*other].contains(&primary));
            if set.is_disjoint(&all[primary]) {
                set.insert(primary);
            }
        }
        if next.iter().collect::<BTreeSet<_>>().len() > available {
            break;
        }
        sets = next;
    }
    sets
}

/// The children of Nixery's root and what each dominates: all that cannot be reached without it.
fn dominated(graph: &Graph, popular: &Popularity) -> BTreeMap<usize, BTreeSet<usize>> {
    let named = |path: usize| graph.paths()[path].name().to_owned();
    let count = |path: usize| match named(path) {
        name if name.starts_with("nss-cacert") => 500_000,
        name => popular.get(&name).copied().unwrap_or(1),
    };
    let large = |path: usize| graph.closure_size(&[path]) > 100 * MB;
    let first: Vec<usize> = (0..graph.count())
        .filter(|path| graph.tops().contains(path) || large(*path) || count(*path) >= 100)
        .collect();
    let reached = |without: Option<usize>| {
        let mut seen = BTreeSet::new();
        let mut open = first.clone();
        while let Some(path) = open.pop() {
            if Some(path) != without && seen.insert(path) {
                open.extend(graph.references(path));
            }
        }
        seen
    };
    let all = reached(None);
    let dominates = |path: usize| &all - &reached(Some(path));
    let children = all
        .iter()
        .copied()
        .filter(|path| !all.iter().any(|other| other != path && dominates(*other).contains(path)));
    children.map(|path| (path, dominates(path))).collect()
}

fn sets(layers: &[Layer]) -> BTreeSet<BTreeSet<usize>> {
    layers.iter().map(|layer| layer.iter().copied().collect()).collect()
}

proptest! {
    #[test]
    fn popularities_are_those_of_the_recursions(graph in any_graph()) {
        let starts: Vec<usize> = graph.starts().collect();
        prop_assert_eq!(popularity::popularity(&graph).unwrap(), contest(&graph, &starts));
        let naive: Vec<i64> = (0..graph.count()).map(|path| walks(&graph, path)).collect();
        prop_assert_eq!(nix2container::popularity(&graph), naive);
    }

    #[test]
    fn auto_layers_are_those_of_the_definition(graph in any_graph(), available in 1..10_usize) {
        let mut naive: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
        for (path, set) in primaries(&graph, available).into_iter().enumerate() {
            naive.entry(set).or_default().insert(path);
        }
        let layers = auto_layer::layers(&graph, available);
        prop_assert_eq!(sets(&layers), naive.into_values().collect::<BTreeSet<_>>());
        let sizes: Vec<u64> = layers.iter().map(|layer| graph.closure_size(layer)).collect();
        prop_assert!(sizes.is_sorted());
    }

    #[test]
    fn nixery_layers_are_what_is_dominated(graph in any_graph(), x in 1..200_u64) {
        let popular: Popularity = [("x".to_owned(), x)].into();
        let layers = nixery::layers(&graph, &popular, 94);
        let naive: BTreeSet<BTreeSet<usize>> = dominated(&graph, &popular).into_values().collect();
        prop_assert_eq!(sets(&layers), naive);
    }

    #[test]
    fn each_strategy_has_each_path_once_and_obeys_its_limit(graph in any_graph(), most in 2..12_usize, x in 1..200_u64) {
        let popular: Popularity = [("x".to_owned(), x)].into();
        for strategy in Strategy::ALL {
            let layers = strategy.layers(&graph, most, &popular).unwrap();
            prop_assert!(layers.iter().all(|layer| !layer.is_empty()));
            prop_assert!(strategy.usual_limits().is_empty() || layers.len() <= most, "{} {}", strategy, layers.len());
            let mut all: Vec<usize> = layers.into_iter().flatten().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..graph.count()).collect::<Vec<_>>(), "{}", strategy);
        }
    }

    #[test]
    fn sums_close(
        chosen in proptest::collection::vec(proptest::collection::vec(0..6_usize, 0..6), 0..5),
        sizes in proptest::collection::vec(1..1000_u64, 6),
    ) {
        let images = Images::new(chosen.iter().map(|layers| {
            let distinct: Vec<usize> = layers.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let by: Vec<usize> = if layers.len().is_multiple_of(2) { distinct } else { distinct.into_iter().rev().collect() };
            by.into_iter().map(|layer| vec![path(layer, "x")]).collect::<Vec<_>>()
        }));
        let digits = |layer: &Vec<StorePath>| (0..6).find(|at| path(*at, "x") == layer[0]).unwrap();
        let sizes: Vec<u64> = images.layers.iter().map(|layer| sizes[digits(layer)]).collect();
        let by_digest = images.sharing(Identity::Digest, &sizes);
        prop_assert_eq!(by_digest.stored, sizes.iter().sum::<u64>());
        for sharing in [&by_digest, &images.sharing(Identity::Chain, &sizes)] {
            prop_assert_eq!(sharing.stored, sharing.in_order.iter().sum::<u64>());
            for (image, layers) in images.images.iter().enumerate() {
                let whole: u64 = layers.iter().map(|layer| sizes[*layer]).sum();
                prop_assert_eq!(sharing.whole[image], whole);
                prop_assert!(sharing.with_all_others[image] <= sharing.in_order[image]);
                prop_assert!(sharing.in_order[image] <= whole);
            }
            if let (Some(last), Some(alone)) = (sharing.in_order.last(), sharing.with_all_others.last()) {
                prop_assert_eq!(last, alone, "before the last are all others");
            }
        }
        prop_assert!(images.sharing(Identity::Chain, &sizes).stored >= by_digest.stored);
    }
}
