package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

func TestCheckRequest(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		want   Name
	}{
		{"good", func(*http.Request) {}, ""},
		{"waits for 100", func(r *http.Request) { r.Header.Set("Expect", "100-continue") }, ""},
		{"no version", func(r *http.Request) { r.Header.Del(HeaderAgentVersion) }, Malformed},
		{"no semantic version", func(r *http.Request) { r.Header.Set(HeaderAgentVersion, "v8") }, Malformed},
		{"the longest version", func(r *http.Request) { r.Header.Set(HeaderAgentVersion, "1.0.0+"+strings.Repeat("b", 58)) }, ""},
		{"a longer version", func(r *http.Request) { r.Header.Set(HeaderAgentVersion, "1.0.0+"+strings.Repeat("b", 59)) }, Malformed},
		{"two versions", func(r *http.Request) { r.Header.Add(HeaderAgentVersion, "8.0.0") }, Malformed},
		{"in chunks", func(r *http.Request) { r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1 }, LengthRequired},
		{"compressed", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, MediaTypeUnsupported},
		{"from a web page", func(r *http.Request) { r.Header.Set("Origin", "https://example.com") }, Malformed},
		{"expects more", func(r *http.Request) { r.Header.Set("Expect", "a miracle") }, Malformed},
	} {
		r := httptest.NewRequest(http.MethodPost, PathHeartbeat, strings.NewReader("x"))
		r.Header.Set(HeaderAgentVersion, "8.0.0")
		tc.change(r)
		p := CheckRequest(r)
		if (p == nil) != (tc.want == "") || p != nil && (p.Name != tc.want || !strings.HasSuffix(p.Detail, ".")) {
			t.Errorf("%s: got %+v, want %q", tc.name, p, tc.want)
		}
	}
}

func TestReadBody(t *testing.T) {
	const limit = 4096
	whole := bytes.Repeat([]byte("0123456789abcdef"), limit/16)
	request := func(body io.Reader, length int64) *http.Request {
		r := httptest.NewRequest(http.MethodPost, PathHeartbeat, body)
		r.ContentLength = length
		return r
	}
	for _, tc := range []struct {
		name string
		r    *http.Request
		want Name
	}{
		{"one byte", request(bytes.NewReader(whole[:1]), 1), ""},
		{"at the limit", request(bytes.NewReader(whole), limit), ""},
		{"in single bytes", request(iotest.OneByteReader(bytes.NewReader(whole)), limit), ""},
		{"with the end", request(iotest.DataErrReader(bytes.NewReader(whole)), limit), ""},
		{"past the limit", request(bytes.NewReader(append(whole, 0)), limit+1), PayloadTooLarge},
		{"no body", request(http.NoBody, 0), LengthRequired},
		{"of unknown length", request(bytes.NewReader(whole), -1), LengthRequired},
		{"too short", request(bytes.NewReader(whole), limit-1), ""},
		{"ends early", request(bytes.NewReader(whole[:7]), 8), Malformed},
		{"stalls", request(io.MultiReader(bytes.NewReader(whole[:7]), iotest.ErrReader(os.ErrDeadlineExceeded)), 8), MessageTimeout},
		{"breaks", request(iotest.ErrReader(errors.New("reset")), 8), Malformed},
	} {
		body, p := ReadBody(tc.r, limit)
		if tc.want != "" {
			if p == nil || p.Name != tc.want || body != nil {
				t.Errorf("%s: got %d bytes and %+v, want %s", tc.name, len(body), p, tc.want)
			}
			continue
		}
		if p != nil || int64(len(body)) != tc.r.ContentLength || !bytes.HasPrefix(whole, body) {
			t.Errorf("%s: got %d bytes, %v", tc.name, len(body), p)
		}
	}
}

// A client that promises much and sends little must not cost what it promised.
func TestReadBodyGrowsWithWhatArrives(t *testing.T) {
	largest := 0
	body := readerFunc(func(p []byte) (int, error) {
		largest = max(largest, len(p))
		return 0, os.ErrDeadlineExceeded
	})
	r := httptest.NewRequest(http.MethodPost, PathHeartbeat, body)
	r.ContentLength = MaxHeartbeatBytes
	if _, p := ReadBody(r, MaxHeartbeatBytes); p == nil || largest > 1<<10 {
		t.Errorf("%d bytes were set aside for a body of which nothing came (%v)", largest, p)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestDecode(t *testing.T) {
	good, err := JSON.Marshal(steadyHeartbeat())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, contentType, body string
		want                    Name
		detail                  string
	}{
		{"good", "application/json", string(good), "", ""},
		{"of another type", "text/plain", string(good), MediaTypeUnsupported, "The header Content-Type must name application/x-protobuf or application/json."},
		{"too large", "application/json", string(good) + strings.Repeat(" ", MaxHeartbeatBytes), PayloadTooLarge, ""},
		{"garbage", "application/json", "{", Malformed, "The body is no Heartbeat in application/json."},
		{"JSON as protobuf", "application/x-protobuf", string(good), Malformed, "The body is no Heartbeat in application/x-protobuf."},
		{"out of bounds", "application/json", `{}`, Malformed, "The body exceeds a bound: agent must be present."},
	} {
		r := httptest.NewRequest(http.MethodPost, PathHeartbeat, strings.NewReader(tc.body))
		r.Header.Set("Content-Type", tc.contentType)
		m := &agentv1.Heartbeat{}
		reply, p := Decode(r, MaxHeartbeatBytes, m, CheckHeartbeat)
		if tc.want == "" {
			if p != nil || reply != JSON || m.GetAgent().GetEpoch() != 3 {
				t.Errorf("%s: %v, %v, %+v", tc.name, m, reply, p)
			}
			continue
		}
		if p == nil || p.Name != tc.want || tc.detail != "" && p.Detail != tc.detail {
			t.Errorf("%s: got %+v, want %s %q", tc.name, p, tc.want, tc.detail)
		}
	}
}
