package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Bounds of what an agent's certificate is made from.
const (
	MaxCSRBytes         = wire.MaxCSRBytes
	MaxCertificateBytes = wire.MaxCertificateBytes
)

// ErrCSR is wrapped by every refusal of a certificate request.
var ErrCSR = errors.New("the certificate request is not acceptable")

// URI is the one name in an agent's certificate, a SPIFFE ID. TLS 1.2 shows it to the network, so it says nothing but an identity.
func URI(fleetID, identityID string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: fleetID, Path: "/endpoint/" + identityID}
}

// ParseURI finds fleet and identity in an agent's certificate, which must have exactly one URI and no other name.
func ParseURI(cert *x509.Certificate) (fleetID, identityID string, err error) {
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
		return "", "", errors.New("the certificate must have exactly one name, a SPIFFE ID")
	}
	u := cert.URIs[0]
	id, ok := strings.CutPrefix(u.Path, "/endpoint/")
	if !ok || !IsUUID(id) || !IsUUID(u.Host) || u.String() != URI(u.Host, id).String() {
		return "", "", errors.New("the certificate's name is no spiffe://<fleet>/endpoint/<identity>")
	}
	return u.Host, id, nil
}

// CSR is a certificate request that was found acceptable. Only its public key is ever used.
type CSR struct {
	DER []byte
	// SPKI is the SubjectPublicKeyInfo (DER) of the key.
	SPKI []byte
	Key  *ecdsa.PublicKey
}

// ParseCSR checks size, self-signature and key (ECDSA P-256) of a PKCS#10 request. Errors wrap ErrCSR.
func ParseCSR(der []byte) (CSR, error) {
	if len(der) == 0 || len(der) > MaxCSRBytes {
		return CSR{}, fmt.Errorf("%w: it has 1 to %d bytes, this one %d", ErrCSR, MaxCSRBytes, len(der))
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return CSR{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return CSR{}, fmt.Errorf("%w: the key must be ECDSA P-256", ErrCSR)
	}
	if err := req.CheckSignature(); err != nil {
		return CSR{}, fmt.Errorf("%w: it is not signed by its own key", ErrCSR)
	}
	return CSR{DER: der, SPKI: req.RawSubjectPublicKeyInfo, Key: key}, nil
}

// KeyHash is the hexadecimal SHA-256 of a SubjectPublicKeyInfo: the idempotency key of an enrolment.
func KeyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// AgentSlot names the CertificateSigningRequest of an agent's key: one of 4,096, so that nobody can fill etcd, and the same at each retry.
func AgentSlot(spki []byte) string { return "rollcall-agent-" + KeyHash(spki)[:3] }

// GatewaySlot names the CertificateSigningRequest of a gateway's serving key.
func GatewaySlot(spki []byte) string { return "rollcall-gateway-" + KeyHash(spki)[:2] }

// HashMachineID turns a machine's own ID into what leaves the machine (machine-id(5) asks applications to hash it). Not a secret, not trusted.
func HashMachineID(id string) string {
	mac := hmac.New(sha256.New, []byte(strings.TrimSpace(id)))
	mac.Write([]byte("rollcall"))
	return hex.EncodeToString(mac.Sum(nil))
}
