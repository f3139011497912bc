"""`./dev release`: checks, reproducible builds, SBOMs, checksums and signature of one version. See docs/how-to/cut-a-release.md."""
