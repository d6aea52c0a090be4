// swift-tools-version: 6.2
import PackageDescription

// Targets stand bottom layer first: each may depend only on what is above it.
// docs/architecture.md draws the same order and says why.

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
]

// Tests call C and raw memory freely; everything else is as strict as the product.
let tested: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
  name: "spillway",
  products: [
    .executable(name: "spillway", targets: ["spillway"]),
    // For Benchmarks/, a package of its own.
    .library(name: "SpillwayEngine", targets: ["Bytes", "Threads", "BlockFile", "Zstd", "ExtentJournal"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
  ],
  targets: [
    // C libraries, each imported by exactly one Swift target.
    .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
    .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
    .systemLibrary(name: "CLibNBD", pkgConfig: "libnbd", providers: [.apt(["libnbd-dev"])]),
    .systemLibrary(name: "CGnuTLS", pkgConfig: "gnutls", providers: [.apt(["libgnutls28-dev"])]),
    .target(name: "CSupport"),

    // Ground: quantities, threads, files, compression, the key-value store.
    .target(name: "Bytes", dependencies: ["CXXHash"], swiftSettings: strict),
    .target(name: "Threads", dependencies: ["CSupport"], swiftSettings: strict),
    .target(name: "BlockFile", dependencies: ["Bytes", "CSupport"], swiftSettings: strict),
    .target(name: "Zstd", dependencies: ["CZstd"], swiftSettings: strict),
    .target(name: "LMDB", dependencies: ["CLMDB", "Threads"], swiftSettings: strict),
    .target(name: "Extents", dependencies: ["Bytes"], swiftSettings: strict),

    // The engine and the wire: neither knows the other.
    .target(
      name: "ExtentJournal",
      dependencies: [
        "Bytes", "Threads", "BlockFile", "Zstd", "LMDB", "Extents", "CSupport",
        .product(name: "DequeModule", package: "swift-collections"),
      ],
      // Deliberate mistakes and failpoints for the tests (PlantedBug.swift); no release build has them.
      swiftSettings: strict + [.define("PLANTED_BUGS", .when(configuration: .debug))]),
    .target(name: "NBDProtocol", dependencies: ["Bytes"], swiftSettings: strict),
    .target(
      name: "NBDServer", dependencies: ["Bytes", "Threads", "NBDProtocol", "CGnuTLS", "CSupport"],
      swiftSettings: strict),
    .target(
      name: "NBDSource", dependencies: ["Bytes", "Threads", "CLibNBD", "CSupport"], swiftSettings: strict),
    .target(name: "QEMUMonitor", dependencies: ["Bytes"], swiftSettings: strict),

    // Where they meet, and the command line on top.
    .target(
      name: "SpillwayService",
      dependencies: [
        "Bytes", "Threads", "BlockFile", "ExtentJournal", "NBDProtocol", "NBDServer", "NBDSource",
        "QEMUMonitor", "CSupport", .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: strict),
    .executableTarget(
      name: "spillway",
      dependencies: [
        "SpillwayService", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: strict),

    // The sources themselves, read as text.
    .testTarget(name: "TidyTests", swiftSettings: tested),

    // What tests stand on: seeds, models, places to write.
    .target(
      name: "TestKit", dependencies: ["Bytes", "Threads", "BlockFile"], path: "Tests/TestKit",
      swiftSettings: tested),
    .testTarget(name: "BytesTests", dependencies: ["Bytes"], swiftSettings: tested),
    .testTarget(name: "ExtentsTests", dependencies: ["Bytes", "Extents", "TestKit"], swiftSettings: tested),
    // Between the libraries and libc: what LMDB does to its file.
    .target(name: "WriteRecorder", path: "Tests/WriteRecorder"),
    .testTarget(
      name: "ExtentJournalTests",
      dependencies: [
        "Bytes", "Threads", "BlockFile", "Extents", "LMDB", "ExtentJournal", "TestKit", "WriteRecorder",
      ],
      exclude: ["Golden"], swiftSettings: tested),

    // Real programs on the other end of the sockets: started, stopped and compared with.
    .target(
      name: "Peers", dependencies: ["Threads", "QEMUMonitor", "TestKit"], path: "Tests/Peers",
      swiftSettings: tested),
    .executableTarget(
      name: "spillway-demo", dependencies: ["Peers", "QEMUMonitor", "TestKit"], path: "Tests/Demo",
      swiftSettings: tested),
    .testTarget(
      name: "NBDSourceTests",
      dependencies: ["Bytes", "Threads", "NBDSource", "QEMUMonitor", "Peers", "TestKit"],
      swiftSettings: tested),
    .testTarget(
      name: "QEMUMonitorTests", dependencies: ["QEMUMonitor", "Peers", "TestKit"], swiftSettings: tested),
    // Depends on the program so that it is built beside the tests, which start it as its users do.
    .testTarget(
      name: "EndToEndTests", dependencies: ["Peers", "QEMUMonitor", "TestKit", "spillway"],
      swiftSettings: tested),
    // Guests that run, for `make test-vm` only.
    .testTarget(
      name: "VirtualMachineTests", dependencies: ["Peers", "QEMUMonitor", "TestKit", "spillway"],
      swiftSettings: tested),
    // Depends on the program for the same reason.
    .testTarget(
      name: "ServiceTests",
      dependencies: [
        "Bytes", "spillway", "SpillwayService", "ExtentJournal", "NBDServer", "QEMUMonitor", "Threads",
        "Peers",
        "TestKit",
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: tested),
    .testTarget(
      name: "NBDProtocolTests", dependencies: ["Bytes", "NBDProtocol"], swiftSettings: tested),
    .testTarget(
      name: "NBDServerTests", dependencies: ["Bytes", "Threads", "NBDProtocol", "NBDServer"],
      swiftSettings: tested),
  ]
)
