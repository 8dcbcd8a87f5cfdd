package fleettest

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/blake2b"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Bundle is content of a version, of about size bytes.
func Bundle(version string, size int) []byte {
	digests := strings.Repeat(`"`+strings.Repeat("ab", 32)+"\",\n", max(0, size-200)/68)
	return fmt.Appendf(nil, `{"format":%q,"version":%q,"rules":[{"id":"eicar","severity":"info","eicar":true},{"id":"list","severity":"high","sha256":[%s"%064d"]}]}`,
		content.Format, version, digests, 0)
}

// Minisign signs a file as minisign -S does.
func Minisign(key crypto.Signer, file []byte) string {
	sum := blake2b.Sum512(file)
	sign := func(b []byte) []byte {
		signature, err := key.Sign(nil, b, crypto.Hash(0))
		if err != nil {
			panic(err) // not of Ed25519
		}
		return signature
	}
	const comment = "timestamp:1764547200\tfile:content.json\thashed"
	signature := sign(sum[:])
	return "untrusted comment: signature from minisign secret key\n" +
		base64.StdEncoding.EncodeToString(append([]byte("ED01234567"), signature...)) +
		"\ntrusted comment: " + comment + "\n" + base64.StdEncoding.EncodeToString(sign(append(slices.Clone(signature), comment...))) + "\n"
}

// Offer signs an offer of a file to everybody, as change makes it, with the next sequence.
func (f *Fleet) Offer(version string, file []byte, change func(*agentv1.Offer)) *agentv1.Envelope {
	f.t.Helper()
	return f.OfferBy(f.Order, version, file, change)
}

// OfferBy is Offer, signed by any key.
func (f *Fleet) OfferBy(signer ed25519.PrivateKey, version string, file []byte, change func(*agentv1.Offer)) *agentv1.Envelope {
	f.t.Helper()
	f.Sequence++
	o := &agentv1.Offer{
		FleetId: f.ID, Namespace: "fleet", ReleaseUid: uuid.NewString(), Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: version,
		Sequence: f.Sequence, Share: content.Everybody, IssuedAt: timestamppb.New(f.Now()), ReleasedAt: timestamppb.New(f.Now()),
		Artifacts: []*agentv1.Artifact{{
			Sha256: content.Digest(file), Size: uint64(len(file)), MediaType: content.MediaType, Signature: Minisign(f.Content, file),
		}},
	}
	if change != nil {
		change(o)
	}
	return f.seal(signer, envelope.Offer, o)
}

// Have has the gateway serve a file under a digest, its own if it is "".
func (g *Gateway) Have(file []byte, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if digest == "" {
		digest = content.Digest(file)
	}
	g.artifacts[digest] = file
}

// Served are how many bytes of artifacts were sent, and the Range of each request, "" for none.
func (g *Gateway) Served() (n int, ranges []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.served, slices.Clone(g.ranges)
}

func (g *Gateway) artifact(w http.ResponseWriter, r *http.Request, digest string) {
	g.mu.Lock()
	file, ok := g.artifacts[digest]
	g.ranges = append(g.ranges, r.Header.Get("Range"))
	if r.Method != http.MethodGet || len(r.TLS.PeerCertificates) != 1 {
		g.t.Errorf("%s of an artifact with %d certificates", r.Method, len(r.TLS.PeerCertificates))
	}
	g.mu.Unlock()
	if !ok {
		(&wire.Problem{Name: wire.NotFound}).Write(w)
		return
	}
	w.Header().Set("ETag", wire.ArtifactTag(digest))
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(counting{w, g}, r, "", time.Time{}, bytes.NewReader(file))
}

// counting counts what is sent.
type counting struct {
	http.ResponseWriter
	g *Gateway
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.served += n
	return n, err
}

// CutAfter sends so many bytes of an artifact, and then ends the connection.
func CutAfter(n int) Answer {
	return func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) { real(&cutting{w, n}, r) }
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(b []byte) (int, error) {
	if len(b) < c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	_, _ = c.ResponseWriter.Write(b[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// ArtifactPath is the route of an artifact, for Next.
func ArtifactPath(file []byte) string { return wire.PathArtifacts + "sha256:" + content.Digest(file) }
