internal import Glibc

/// Removes the file at `path`; that it is gone already is fine.
func removePath(_ path: String) {
  // SAFETY: unlink reads the path during the call only.
  unsafe unlink(path)
}
