internal import CZstd

/// A zstd compression context: memory for one compression at a time, used by one thread.
@safe
package struct ZstdCompressor: ~Copyable {
  private let context: OpaquePointer

  /// A fresh context. Traps when there is no memory for it.
  package init() {
    guard let context = unsafe ZSTD_createCCtx() else { preconditionFailure("no memory for a zstd context") }
    unsafe self.context = context
  }

  deinit { unsafe ZSTD_freeCCtx(context) }

  /// The most bytes that `byteCount` bytes can become.
  package static func bound(_ byteCount: Int) -> Int { ZSTD_compressBound(byteCount) }

  /// Compresses `source` into `target` as one frame at `level`. Returns the compressed size, or nil when it
  /// does not fit into `target`: make `target` as small as compression has to pay.
  package func compress(_ source: RawSpan, into target: inout MutableRawSpan, level: Int32) -> Int? {
    // SAFETY: zstd reads the source's and writes at most the target's bytes, both pinned by the closures.
    let size = unsafe source.withUnsafeBytes { from in
      unsafe target.withUnsafeMutableBytes { to in
        unsafe ZSTD_compressCCtx(context, to.baseAddress, to.count, from.baseAddress, from.count, level)
      }
    }
    return ZSTD_isError(size) == 0 ? size : nil
  }
}

/// A zstd decompression context, used by one thread at a time.
@safe
package struct ZstdDecompressor: ~Copyable {
  private let context: OpaquePointer

  /// A fresh context. Traps when there is no memory for it.
  package init() {
    guard let context = unsafe ZSTD_createDCtx() else { preconditionFailure("no memory for a zstd context") }
    unsafe self.context = context
  }

  deinit { unsafe ZSTD_freeDCtx(context) }

  /// Decompresses `source` into `target`. True only when the result fills `target` exactly.
  package func decompress(_ source: RawSpan, into target: inout MutableRawSpan) -> Bool {
    // SAFETY: zstd reads the source's and writes at most the target's bytes, both pinned by the closures.
    let size = unsafe source.withUnsafeBytes { from in
      unsafe target.withUnsafeMutableBytes { to in
        unsafe ZSTD_decompressDCtx(context, to.baseAddress, to.count, from.baseAddress, from.count)
      }
    }
    return size == target.byteCount
  }
}
