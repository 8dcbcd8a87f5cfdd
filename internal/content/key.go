package content

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"

	"aead.dev/minisign"
)

// ParseReleaseKey reads the public key of a publisher: the text of a minisign public key file, or the one line in it that is the key.
func ParseReleaseKey(text string) (ed25519.PublicKey, error) {
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(text)); err != nil {
		return nil, errors.New("it is no minisign public key (RW…)")
	}
	raw, err := base64.StdEncoding.DecodeString(key.String())
	if err != nil || len(raw) != 2+8+ed25519.PublicKeySize { // as minisign wrote it
		return nil, errors.New("it is no Ed25519 key")
	}
	return raw[2+8:], nil
}
