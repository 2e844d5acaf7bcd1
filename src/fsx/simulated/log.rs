//! What was done to a simulated disk, and the folders that come of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

/// The node every path begins at.
const ROOT: usize = 0;

/// One change that was made. Nodes are files and folders; names are entries of folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Link { dir: usize, name: OsString, node: usize, is_dir: bool },
    Unlink { dir: usize, name: OsString, node: usize },
    Rename { from: (usize, OsString), to: (usize, OsString), node: usize },
    Write { node: usize, offset: u64, bytes: Vec<u8> },
    SetLen { node: usize, n_bytes: u64 },
    Sync { node: usize },
    FailedSync { node: usize },
}

impl Op {
    /// Whether a sync of `node` makes this durable.
    pub fn is_of(&self, synced: usize) -> bool {
        match self {
            Op::Link { dir, .. } | Op::Unlink { dir, .. } => *dir == synced,
            Op::Rename { from, to, .. } => from.0 == synced || to.0 == synced,
            Op::Write { node, .. } | Op::SetLen { node, .. } => *node == synced,
            Op::Sync { .. } | Op::FailedSync { .. } => false,
        }
    }

    /// It in a few words.
    pub fn brief(&self) -> String {
        match self {
            Op::Write { node, offset, bytes } => format!("write {} bytes at {offset} of {node}", bytes.len()),
            op => format!("{op:?}"),
        }
    }

    /// Whether it is about names, and not about the content of a file.
    pub fn is_about_names(&self) -> bool {
        matches!(self, Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<OsString, usize>),
}

/// A folder with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// What lies in a folder.
    pub fn of_folder(root: &Path) -> Self {
        let mut tree = Self { nodes: vec![Node::Dir(BTreeMap::new())] };
        tree.take(root, ROOT);
        tree
    }

    fn take(&mut self, path: &Path, at: usize) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = self.nodes.len();
            let is_dir = entry.file_type().unwrap().is_dir();
            self.nodes.push(match is_dir {
                true => Node::Dir(BTreeMap::new()),
                false => Node::File(fs::read(entry.path()).unwrap()),
            });
            self.entries_mut(at).insert(entry.file_name(), node);
            if is_dir {
                self.take(&entry.path(), node);
            }
        }
    }

    /// Puts the tree into an empty folder.
    pub fn write_to(&self, root: &Path) {
        self.put(root, ROOT);
    }

    fn put(&self, path: &Path, at: usize) {
        for (name, node) in self.entries(at) {
            let path = path.join(name);
            match &self.nodes[*node] {
                Node::File(bytes) => fs::write(path, bytes).unwrap(),
                Node::Dir(_) => {
                    fs::create_dir(&path).unwrap();
                    self.put(&path, *node);
                }
            }
        }
    }

    /// Every file that can be reached and its content, by path: two trees with the same are the same to a reader.
    pub fn listing(&self) -> Vec<(String, Option<&[u8]>)> {
        let mut found = Vec::new();
        self.list(ROOT, String::new(), &mut found);
        found
    }

    fn list<'a>(&'a self, at: usize, path: String, found: &mut Vec<(String, Option<&'a [u8]>)>) {
        for (name, node) in self.entries(at) {
            let path = format!("{path}/{}", name.to_string_lossy());
            match &self.nodes[*node] {
                Node::File(bytes) => found.push((path, Some(bytes))),
                Node::Dir(_) => {
                    found.push((path.clone(), None));
                    self.list(*node, path, found);
                }
            }
        }
    }

    fn node(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(ROOT, |at, name| match &self.nodes[at] {
            Node::Dir(entries) => entries.get(name).copied(),
            Node::File(_) => None,
        })
    }

    fn entries(&self, dir: usize) -> &BTreeMap<OsString, usize> {
        let Node::Dir(entries) = &self.nodes[dir] else { panic!("node {dir} is no folder") };
        entries
    }

    fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<OsString, usize> {
        let Node::Dir(entries) = &mut self.nodes[dir] else { panic!("node {dir} is no folder") };
        entries
    }

    fn content_mut(&mut self, file: usize) -> &mut Vec<u8> {
        let Node::File(bytes) = &mut self.nodes[file] else { panic!("node {file} is no file") };
        bytes
    }

    /// Makes room for a node that some change may link.
    pub(super) fn reserve(&mut self, op: &Op) {
        if let Op::Link { is_dir, node, .. } = op {
            assert_eq!(*node, self.nodes.len(), "nodes are numbered in the order they are made");
            self.nodes.push(if *is_dir { Node::Dir(BTreeMap::new()) } else { Node::File(Vec::new()) });
        }
    }

    /// Does one change; those it built on may be missing.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Link { dir, name, node, .. } => {
                self.entries_mut(*dir).insert(name.clone(), *node);
            }
            Op::Unlink { dir, name, node } => self.unlink(*dir, name, *node),
            Op::Rename { from, to, node } => {
                self.unlink(from.0, &from.1, *node);
                self.entries_mut(to.0).insert(to.1.clone(), *node);
            }
            Op::Write { node, offset, bytes } => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                let content = self.content_mut(*node);
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(bytes);
            }
            Op::SetLen { node, n_bytes } => self.content_mut(*node).resize(*n_bytes as usize, 0),
            Op::Sync { .. } | Op::FailedSync { .. } => {}
        }
    }

    fn unlink(&mut self, dir: usize, name: &OsStr, node: usize) {
        let entries = self.entries_mut(dir);
        if entries.get(name) == Some(&node) {
            entries.remove(name);
        }
    }
}

/// The changes since the disk began, and where they have led.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) initial: Tree,
    pub(super) ops: Vec<Op>,
    now: Tree,
}

impl Log {
    pub(super) fn new(initial: Tree) -> Self {
        Self { now: initial.clone(), initial, ops: Vec::new() }
    }

    pub fn n_ops(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn push(&mut self, op: Op) {
        self.now.reserve(&op);
        self.now.apply(&op);
        self.ops.push(op);
    }

    pub(super) fn extend(&mut self, ops: Vec<Op>) {
        ops.into_iter().for_each(|op| self.push(op));
    }

    pub(super) fn node(&self, path: &Path) -> Option<usize> {
        self.now.node(path)
    }

    /// The folder and the name a path ends in.
    fn place(&self, path: &Path) -> Option<(usize, OsString)> {
        Some((self.node(path.parent()?)?, path.file_name()?.to_owned()))
    }

    /// The making of something new; nothing where it is there already.
    pub(super) fn link(&self, path: &Path, is_dir: bool) -> Option<Op> {
        let (dir, name) = self.place(path)?;
        let is_new = self.node(path).is_none();
        is_new.then_some(Op::Link { dir, name, node: self.now.nodes.len(), is_dir })
    }

    pub(super) fn unlink(&self, path: &Path) -> Option<Op> {
        let (dir, name) = self.place(path)?;
        Some(Op::Unlink { dir, name, node: self.node(path)? })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Option<Op> {
        Some(Op::Rename { node: self.node(from)?, from: self.place(from)?, to: self.place(to)? })
    }
}
