package content

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"aead.dev/minisign"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// ErrSignature is wrapped by every error of VerifySignature.
var ErrSignature = errors.New("the signature does not hold")

// Fault is why a file is not put to use: a reason in CamelCase, as agents report it, and a message for people. Neither is out of the bounds of a
// heartbeat.
type Fault struct{ Reason, Message string }

func (f *Fault) Error() string { return f.Message }

// Reasons of faults in a file.
const (
	ReasonTooLarge         = "TooLarge"
	ReasonSizeDiffers      = "SizeDiffers"
	ReasonDigestDiffers    = "DigestDiffers"
	ReasonSignatureInvalid = "SignatureInvalid"
	ReasonUnparsable       = "Unparsable"
	ReasonVersionDiffers   = "VersionDiffers"
)

// maxMessage is the bound of a message in a heartbeat, in bytes.
const maxMessage = 256

// Find is the artifact of an offer that is content for a platform, nil where there is none. One for that platform comes before one for any.
func Find(o *agentv1.Offer, platform string) *agentv1.Artifact {
	var found *agentv1.Artifact
	for _, a := range o.GetArtifacts() {
		if a.GetMediaType() == MediaType && (a.GetPlatform() == platform || a.GetPlatform() == "" && found == nil) {
			found = a
		}
	}
	return found
}

// CheckSize tells whether a file of that size may be downloaded at all. The error is a *Fault.
func CheckSize(bytes uint64) error {
	if bytes > MaxBytes {
		return &Fault{ReasonTooLarge, fmt.Sprintf("the file has %d bytes, and content at most %d", bytes, MaxBytes)}
	}
	return nil
}

// Verify tells whether a file is the artifact of the release of that version: its size, its digest, a signature by one of the keys, and whether it
// parses as a bundle of that version, in this order. A file is put to use, or offered, after that alone. The error is a *Fault.
func Verify(file []byte, a *agentv1.Artifact, version string, keys []crypto.PublicKey) (*Bundle, error) {
	if err := CheckSize(a.GetSize()); err != nil {
		return nil, err
	}
	if uint64(len(file)) != a.GetSize() {
		return nil, &Fault{ReasonSizeDiffers, "the downloaded file's size differs from the signed offer"}
	}
	if Digest(file) != a.GetSha256() {
		return nil, &Fault{ReasonDigestDiffers, "the downloaded file's digest differs from the signed offer"}
	}
	if err := VerifySignature(file, a.GetSignature(), keys); err != nil {
		return nil, &Fault{ReasonSignatureInvalid, line(err.Error(), maxMessage)}
	}
	b, err := Parse(file)
	if err != nil {
		return nil, &Fault{ReasonUnparsable, line("the file does not parse: "+err.Error(), maxMessage)}
	}
	if !Same(b.Version, version) {
		return nil, &Fault{ReasonVersionDiffers, fmt.Sprintf("the file says that it is version %s, the offer %s", b.Version, line(version, MaxVersion))}
	}
	return b, nil
}

// Digest of a file as offers have it: SHA-256 in lower-case hexadecimal digits.
func Digest(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

// Same tells whether two texts are one version: 2 and 2.0 are. A text that is no version is never the same.
func Same(a, b string) bool {
	v, err := ParseVersion(a)
	w, err2 := ParseVersion(b)
	return err == nil && err2 == nil && v == w
}

// VerifySignature verifies the text of a minisign signature file, of either kind (ED, of the file's digest, which minisign makes by itself, or Ed, of
// the file), by any of the keys; those that are not Ed25519 are passed over. A trust bundle has keys without minisign's key IDs: the ID in the
// signature is a hint and nothing else. The trusted comment is verified too.
func VerifySignature(file []byte, signature string, keys []crypto.PublicKey) error {
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(signature)); err != nil {
		return fmt.Errorf("%w: it is no minisign signature", ErrSignature)
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: the fleet has no key for content", ErrSignature)
	}
	for _, k := range keys {
		raw, ok := k.(ed25519.PublicKey)
		if !ok {
			continue
		}
		key, err := withID(raw, s.KeyID)
		if err == nil && minisign.Verify(key, file, []byte(signature)) {
			return nil
		}
	}
	return fmt.Errorf("%w: no content key of the fleet made it for this file", ErrSignature)
}

// withID is a key as minisign has it.
func withID(raw ed25519.PublicKey, id uint64) (key minisign.PublicKey, err error) {
	b := binary.LittleEndian.AppendUint16(nil, minisign.EdDSA)
	b = append(binary.LittleEndian.AppendUint64(b, id), raw...)
	return key, key.UnmarshalText([]byte(base64.StdEncoding.EncodeToString(b)))
}
