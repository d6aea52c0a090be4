// swift-tools-version: 6.2
import PackageDescription

// Benchmarks of the engine without the wire; `make bench-engine` runs them. A package of its own, so that building the
// product builds none of this.

// What is measured is `package`: shared by targets of one package, which SwiftPM names after the folder of the clone.
// These benchmarks say that they belong to it.
let folder = Context.packageDirectory.split(separator: "/").dropLast().last ?? ""
let spillwayPackage = String(folder.lowercased().map { $0.isLetter || $0.isNumber ? $0 : "_" })

let package = Package(
  name: "spillway-benchmarks",
  dependencies: [.package(name: "spillway", path: "..")],
  targets: [
    .executableTarget(
      name: "EngineBenchmark",
      dependencies: [.product(name: "SpillwayEngine", package: "spillway")],
      packageAccess: false,  // the setting below says otherwise, and SwiftPM's own would come after it
      swiftSettings: [
        .swiftLanguageMode(.v6),
        .treatAllWarnings(as: .error),
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .unsafeFlags(["-package-name", spillwayPackage]),
      ])
  ]
)
