package content

import (
	"crypto/sha256"
	"encoding/binary"
)

// Everybody is the share that leaves nobody out.
const Everybody = 10_000

// InShare tells whether an identity is among the first share of 10,000 of a release's endpoints. Agent and gateway find the same, without
// anything being written for each endpoint, and whoever is in stays in as the share grows.
func InShare(releaseUID, identityID string, share uint32) bool {
	sum := sha256.Sum256([]byte("rollcall-share-v1\n" + releaseUID + "\n" + identityID))
	return binary.BigEndian.Uint64(sum[:8])%Everybody < uint64(share)
}
