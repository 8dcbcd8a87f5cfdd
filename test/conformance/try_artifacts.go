package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// mediaType of content.
const mediaType = "application/vnd.rollcall.content.v1+json"

// takeOffer takes up an offer of content, and downloads nothing yet. What the document has an agent ignore is no error.
func (a *agent) takeOffer(e *envelope) error {
	var o offer
	if err := open(e, "offer", &o, a.trust.orders); err != nil {
		return err
	}
	i := slices.IndexFunc(o.Artifacts, func(f artifact) bool { return f.MediaType == mediaType })
	switch {
	case o.Kind != "RELEASE_KIND_CONTENT" || a.assigned.Namespace == "": // it comes again once there is an assignment
		return nil
	case o.FleetID != a.trust.fleetID || o.Namespace != a.assigned.Namespace:
		return fmt.Errorf("the offer is for namespace %s of fleet %s", o.Namespace, o.FleetID)
	case i < 0:
		return errors.New("the offer has no artifact that is content")
	case o.Sequence <= a.content.Sequence:
		return fmt.Errorf("an offer with sequence %d came after %d", o.Sequence, a.content.Sequence)
	}
	a.offered, a.file = *e, o.Artifacts[i]
	a.content = releaseState{Sequence: o.Sequence, Phase: "RELEASE_PHASE_DOWNLOADING"}
	return nil
}

// artifactCall asks for an artifact. Headers are names and values in turn.
func artifactCall(name string, headers ...string) call {
	q := call{method: http.MethodGet, path: "/agent/v1/artifacts/" + name, header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		q.header.Set(headers[i], headers[i+1])
	}
	return q
}

func (s *suite) tryArtifacts(ctx context.Context) error {
	nothing := "sha256:" + strings.Repeat("0", 64)
	post := artifactCall(nothing)
	post.method = http.MethodPost
	for _, r := range []struct {
		what string
		q    call
		name string
	}{
		{"an artifact that is not offered", artifactCall(nothing), "artifact-not-offered"},
		{"a digest of 63 digits", artifactCall(nothing[:len(nothing)-1]), "malformed"},
		{"a digest of 65 digits", artifactCall(nothing + "0"), "malformed"},
		{"a digest in capitals", artifactCall("sha256:" + strings.Repeat("A", 64)), "malformed"},
		{"a digest of another kind", artifactCall("sha512:" + strings.Repeat("0", 64)), "malformed"},
		{"a digest that is a path", artifactCall("sha256:../../trust"), "malformed"},
		{"an artifact with another method", post, "method-not-allowed"},
	} {
		a, err := s.mine.do(ctx, r.q, 0)
		s.expect(r.what, a, err, r.name)
	}
	cert, key, err := s.selfSigned()
	if err != nil {
		return err
	}
	stranger := s.as(cert, key)
	defer stranger.close()
	a, err := stranger.do(ctx, artifactCall(nothing), 0)
	s.expect("an artifact by a certificate that no CA of the fleet issued", a, err, "certificate-unknown")

	if s.content.Sequence == 0 {
		s.say("        downloads are not tried: no content is offered to this endpoint")
		return nil
	}
	s.say("        content is offered: sequence %d, sha256:%s, %d bytes", s.content.Sequence, s.file.SHA256, s.file.Size)
	s.check("the offer comes again, byte for byte, to an agent that has not said that it has it", s.offerComesAgain(ctx))
	orders, err := s.heartbeat(ctx)
	if err == nil && orders > 0 && s.obeysAll() {
		err = fmt.Errorf("%d orders came", orders)
	}
	s.check("it does not come to one that has said so", err)
	s.tryDownloads(ctx)
	return s.tryDownloadsAtOnce(ctx)
}

func (s *suite) offerComesAgain(ctx context.Context) error {
	h := s.beat()
	h.Content.Sequence--
	a, err := s.post(ctx, call{body: encode(h)})
	if err != nil {
		return err
	}
	var reply heartbeatReply
	if err := a.read(&reply); err != nil {
		return err
	}
	if len(reply.Orders) != 1 || !bytes.Equal(encode(reply.Orders[0]), encode(s.offered)) {
		err = fmt.Errorf("%d orders came, which are not that offer", len(reply.Orders))
	}
	return err
}

// tryDownloads of the file that is offered.
func (s *suite) tryDownloads(ctx context.Context) {
	name, size := "sha256:"+s.file.SHA256, int(s.file.Size)
	tag := `"` + name + `"`
	get := func(q call) (*answer, error) {
		a, err := s.mine.do(ctx, q, int64(size))
		if err == nil && a.status < 400 && a.header.Get("ETag") != tag {
			err = fmt.Errorf("its ETag is %q", a.header.Get("ETag"))
		}
		return a, err
	}
	whole := func(a *answer, err error) error {
		if err != nil {
			return err
		}
		sum := sha256.Sum256(a.body)
		if a.status != http.StatusOK || len(a.body) != size || a.header.Get("Content-Encoding") != "" || hex.EncodeToString(sum[:]) != s.file.SHA256 {
			return fmt.Errorf("%d with %d bytes of SHA-256 %x, encoded as %q", a.status, len(a.body), sum, a.header.Get("Content-Encoding"))
		}
		return nil
	}
	all, err := get(artifactCall(name, "Accept-Encoding", "gzip"))
	err = whole(all, err)
	s.check("the file that is offered comes as it is, with its digest, size and ETag", err)
	if err != nil {
		return
	}
	head := artifactCall(name)
	head.method = http.MethodHead
	a, err := get(head)
	if err == nil && (a.status != http.StatusOK || a.header.Get("Content-Length") != strconv.Itoa(size) || len(a.body) > 0) {
		err = fmt.Errorf("%s with the Content-Length %s", a, a.header.Get("Content-Length"))
	}
	s.check("HEAD says the same of it, and sends nothing", err)
	a, err = get(artifactCall(name, "If-None-Match", tag))
	if err == nil && (a.status != http.StatusNotModified || len(a.body) > 0) {
		err = fmt.Errorf("%s", a)
	}
	s.check("304 for the one that the agent has", err)

	for _, part := range []struct {
		what     string
		header   []string
		from, to int
	}{
		{"the rest of it, from the middle", []string{"Range", fmt.Sprintf("bytes=%d-", size/2), "If-Range", tag}, size / 2, size},
		{"its last byte", []string{"Range", fmt.Sprintf("bytes=%d-", size-1)}, size - 1, size},
		{"all of it as a part", []string{"Range", "bytes=0-"}, 0, size},
		{"its first byte", []string{"Range", "bytes=0-0"}, 0, 1},
	} {
		a, err := get(artifactCall(name, part.header...))
		want := fmt.Sprintf("bytes %d-%d/%d", part.from, part.to-1, size)
		if err == nil && (a.status != http.StatusPartialContent || a.header.Get("Content-Range") != want || !bytes.Equal(a.body, all.body[part.from:part.to])) {
			err = fmt.Errorf("%d with %d bytes as %q, want %q", a.status, len(a.body), a.header.Get("Content-Range"), want)
		}
		s.check(part.what, err)
	}
	s.check("the whole instead of the rest of another file", whole(get(artifactCall(name, "Range", "bytes=1-", "If-Range", `"`+"sha256:"+strings.Repeat("0", 64)+`"`))))
	a, err = get(artifactCall(name, "Range", fmt.Sprintf("bytes=%d-", size), "If-Range", tag))
	if err == nil && a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
		err = fmt.Errorf("its Content-Range is %q", a.header.Get("Content-Range"))
	}
	s.expect("a part that begins where the file ends", a, err, "range-not-satisfiable")
	s.check("the whole instead of what follows the end of another file", whole(get(artifactCall(name, "Range", fmt.Sprintf("bytes=%d-", size), "If-Range", `"sha256:0"`))))
}

// tryDownloadsAtOnce leaves two downloads unread and asks for a third.
func (s *suite) tryDownloadsAtOnce(ctx context.Context) error {
	name := "sha256:" + s.file.SHA256
	var unread []*http.Response
	defer func() {
		for _, r := range unread {
			_ = r.Body.Close() // cut off
		}
	}()
	for range 2 {
		req, err := s.mine.request(ctx, artifactCall(name))
		if err != nil {
			return err
		}
		resp, err := s.mine.http.Do(req) //nolint:bodyclose // when both have begun
		if err == nil {
			unread = append(unread, resp) //nolint:bodyclose // likewise
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		s.check(fmt.Sprintf("download %d of 2 at once begins", len(unread)), err)
	}
	a, err := s.mine.once(ctx, artifactCall(name, "Range", "bytes=0-0"), 1)
	if err == nil && a.status == http.StatusPartialContent {
		s.say("        a third is not tried: the gateway was done with the two before it was asked for; a larger file is needed")
		return nil
	}
	if err == nil && a.retryAfter() == 0 {
		err = errors.New("it has no Retry-After")
	}
	s.expect("a third", a, err, "throttled")
	for _, r := range unread {
		_ = r.Body.Close() // likewise
	}
	a, err = s.mine.do(ctx, artifactCall(name, "Range", "bytes=0-0"), 1)
	if err == nil && a.status != http.StatusPartialContent {
		err = fmt.Errorf("%s", a)
	}
	s.check("another one, after the two were cut off and the time that it was told", err)
	return nil
}
