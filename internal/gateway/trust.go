package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// publisher has the answers to GET /trust ready, so that anybody may ask for them: they are a few, made anew when the trust changes.
type publisher struct {
	mu      sync.Mutex
	trust   *store.Trust
	answers [][2]static // by the first bundle in them, and by codec
}

// static is an answer as it is sent.
type static struct {
	body []byte
	etag string
}

// answer has the bundles after a version.
func (p *publisher) answer(trust *store.Trust, after uint64, codec wire.Codec) (static, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trust != trust {
		answers, err := prepare(trust)
		if err != nil {
			return static{}, err
		}
		p.trust, p.answers = trust, answers
	}
	first := sort.Search(len(trust.Versions), func(i int) bool { return trust.Versions[i] > after })
	return p.answers[first][codec], nil
}

// prepare makes the answer that begins with each bundle, and the one that has none.
func prepare(trust *store.Trust) ([][2]static, error) {
	answers := make([][2]static, len(trust.Bundles)+1)
	for first := range answers {
		m := &agentv1.TrustReply{}
		for _, b := range trust.Bundles[first:] {
			if len(m.Bundles) == wire.MaxTrustPerReply {
				break
			}
			m.Bundles = append(m.Bundles, b)
		}
		for _, codec := range []wire.Codec{wire.Protobuf, wire.JSON} {
			body, err := fit(codec, m)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(body)
			answers[first][codec] = static{body, `"` + hex.EncodeToString(sum[:8]) + `"`}
		}
	}
	return answers, nil
}

// fit encodes as many bundles as an answer may have; the agent asks for the rest.
func fit(codec wire.Codec, m *agentv1.TrustReply) ([]byte, error) {
	for n := len(m.Bundles); ; n-- {
		body, err := codec.Marshal(&agentv1.TrustReply{Bundles: m.Bundles[:n]})
		if err != nil || len(body) <= wire.MaxTrustReply || n <= 1 {
			return body, err
		}
	}
}

func (c *connection) serveTrust(w http.ResponseWriter, r *http.Request, _ time.Time) *wire.Problem {
	after := uint64(0)
	if text := r.URL.Query().Get(wire.QueryAfter); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return &wire.Problem{Name: wire.Malformed, Detail: "The query parameter " + wire.QueryAfter + " must be the number of a trust version."}
		}
	}
	codec, p := wire.ReplyCodec(r.Header, wire.Protobuf)
	if p != nil {
		return p
	}
	trust, ok := c.gateway.Source.Trust()
	if !ok {
		return auth.NotReady("the manager has not published a trust bundle yet, or this gateway has not read it")
	}
	a, err := c.gateway.trust.answer(trust, after, codec)
	if err != nil {
		return &wire.Problem{Name: wire.Internal, Detail: "The trust bundles could not be encoded.", RetryAfter: time.Minute}
	}
	h := w.Header()
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept")
	h.Set("Cache-Control", "no-cache") // ask each time whether it is still the same
	if has(r.Header.Values("If-None-Match"), a.etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", codec.ContentType())
	_, _ = w.Write(a.body) // into memory
	return nil
}

// has tells whether a list of entity tags (RFC 9110, 13.1.2) has this one.
func has(lists []string, etag string) bool {
	for one := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == etag || one == "*" {
			return true
		}
	}
	return false
}

// seconds of a duration, rounded up, for Retry-After.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
