package wire

// PathArtifacts is where artifacts are, each under its digest: ArtifactTag, without the quotes.
const PathArtifacts = PathPrefix + "/artifacts/"

// ArtifactTag is the ETag of an artifact by its SHA-256, 64 lower-case hexadecimal digits: it never changes under that name.
func ArtifactTag(sha256 string) string { return `"sha256:` + sha256 + `"` }
