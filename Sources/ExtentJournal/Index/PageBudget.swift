// What a transaction may cost. LMDB copies a page before it changes it and keeps the copies in memory until the commit:
// a transaction of 4,096 dirty pages is 16 MiB of memory, one write of that size, and what the file grows by at worst,
// since pages that it replaces are free only two commits later.
//
// LMDB does not say how many pages are dirty, so the rows are counted, at what each can cost at worst:
//
// - a put or a delete changes a leaf, and one more when it splits (a put) or is filled up from its neighbour (a delete);
// - the branches above are changed too: for each run of neighbouring keys the path from the root, but of all runs
//   together no more than the tree has; and each of them may split;
// - LMDB's own books (free pages, the roots of the databases) have the reserve.
//
// Random rows in a large tree cost six pages each by this count, and two to three in fact: the bound is to hold, not
// to be reached.

/// What a transaction on the index may still cost, in pages. See the note at the top of the file.
package struct PageBudget {
  /// The most pages that a transaction may dirty.
  package static let pagesMax = 4096
  static let reserve = 256

  /// One database of the transaction.
  package struct Tree {
    private let pathPages: Int
    private let branchPages: Int
    private var runs = 0
    private var rows = 0

    /// A tree of `depth` levels, `branchPages` of its pages above the leaves.
    package init(depth: Int, branchPages: Int) {
      pathPages = max(depth - 1, 0)
      self.branchPages = branchPages
    }

    /// Counts `rows` puts and deletes, in so many `runs` of neighbouring keys.
    package mutating func add(_ rows: Int, runs: Int = 1) {
      self.runs += runs
      self.rows += rows
    }

    /// Pages that are dirty at worst.
    package var pages: Int { 2 * rows + 2 * min(runs * pathPages, branchPages) }
  }

  private var map: Tree
  private var ranges: Tree
  private var frames: Tree
  private var held: Tree
  private var others: Tree
  private var isEmpty = true
  private let pagesMax: Int

  /// Nothing is spent yet.
  package init(
    pagesMax: Int = Self.pagesMax, map: Tree, ranges: Tree, frames: Tree,
    held: Tree = Tree(depth: 0, branchPages: 0)
  ) {
    self.pagesMax = pagesMax
    self.map = map
    self.ranges = ranges
    self.frames = frames
    self.held = held
    // The small databases: few rows in few pages.
    others = Tree(depth: 2, branchPages: 8)
  }

  /// Spends what puts and deletes of so many neighbouring rows cost; those of frames (their windows and segments) may lie anywhere. False, and nothing is spent, when that is too much
  /// for this transaction. The first one always fits: it must go somewhere.
  package mutating func spend(
    map mapRows: Int, ranges rangeRows: Int, frames frameRows: Int = 0, held heldRows: Int = 0,
    others otherRows: Int
  ) -> Bool {
    var (map, ranges, frames, held, others) = (map, ranges, frames, held, others)
    if mapRows > 0 { map.add(mapRows) }
    if rangeRows > 0 { ranges.add(rangeRows) }
    if frameRows > 0 { frames.add(frameRows, runs: frameRows) }
    if heldRows > 0 { held.add(heldRows, runs: heldRows) }
    if otherRows > 0 { others.add(otherRows) }
    let pages = map.pages + ranges.pages + frames.pages + held.pages + others.pages
    guard isEmpty || pages + Self.reserve <= pagesMax else { return false }
    (self.map, self.ranges, self.frames, self.held, self.others) = (map, ranges, frames, held, others)
    isEmpty = false
    return true
  }
}
