package transport

import (
	"bufio"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
	"nhooyr.io/websocket"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// libraryBuffer is the smallest that bufio has: the guard gathers frames in buffers that go round.
const libraryBuffer = 16

// Accept answers an upgrade request with 101, taking the connection over from w, which must be an http.Hijacker. Whether the agent may have a
// session is the caller's question, before. A request that is no upgrade to a subprotocol of this version gives the problem to answer with.
func Accept(w http.ResponseWriter, r *http.Request) (*Conn, *wire.Problem) {
	upgrade, problem := checkUpgrade(r)
	if problem != nil {
		w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, 4.4
		return nil, problem
	}
	subprotocol := upgrade.Header.Get("Sec-WebSocket-Protocol")
	h := &hijacker{ResponseWriter: w, header: http.Header{}, text: subprotocol == wire.SubprotocolJSON}
	ws, err := websocket.Accept(h, upgrade, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
	if err != nil {
		return nil, &wire.Problem{Name: wire.Internal, Detail: "The gateway could not take the connection over."}
	}
	return newConn(ws, h.guard), nil
}

// checkUpgrade judges the request (RFC 6455, 4.2.1) and gives the one for the library, with one subprotocol.
func checkUpgrade(r *http.Request) (*http.Request, *wire.Problem) {
	malformed := func(detail string) (*http.Request, *wire.Problem) {
		return nil, &wire.Problem{Name: wire.Malformed, Detail: detail}
	}
	keys := r.Header.Values("Sec-WebSocket-Key")
	switch {
	case r.Method != http.MethodGet:
		return nil, &wire.Problem{Name: wire.MethodNotAllowed, Detail: "A websocket begins with GET."}
	case !r.ProtoAtLeast(1, 1), !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade"), !httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket"):
		return malformed("This route is a websocket: ask for it in HTTP/1.1 with Connection: Upgrade and Upgrade: websocket.")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return malformed("An upgrade request has no body.")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return malformed("The header Sec-WebSocket-Version must be 13.")
	case len(keys) != 1 || !isKey(strings.TrimSpace(keys[0])):
		return malformed("The header Sec-WebSocket-Key must be there once, with 16 random bytes in base64.")
	}
	served := []string{wire.Subprotocol, wire.SubprotocolJSON}
	offered := subprotocols(r)
	chosen := slices.IndexFunc(served, func(s string) bool { return slices.Contains(offered, s) })
	if chosen < 0 {
		return nil, &wire.Problem{
			Name: wire.SubprotocolUnsupported, Supported: served,
			Detail: "The header Sec-WebSocket-Protocol must name " + strings.Join(served, " or ") + ".",
		}
	}
	return &http.Request{Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {strings.TrimSpace(keys[0])}, "Sec-Websocket-Protocol": {served[chosen]},
	}}, nil
}

func isKey(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) == 16
}

// subprotocols that are offered. Unlike tokens of HTTP they are told apart by case.
func subprotocols(r *http.Request) (all []string) {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for one := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(one))
		}
	}
	return all
}

// hijacker is what the library answers through. Nothing reaches the real one before its Hijack, which puts the guard between.
type hijacker struct {
	http.ResponseWriter
	header http.Header
	text   bool
	guard  *guard
}

func (h *hijacker) Header() http.Header         { return h.header }
func (h *hijacker) WriteHeader(int)             {} // 101; or an error of the library's, in place of which the caller answers
func (h *hijacker) Write(b []byte) (int, error) { return len(b), nil }

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	for name, values := range h.header {
		h.ResponseWriter.Header()[name] = values
	}
	h.ResponseWriter.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.guard = newGuard(conn, conn, false, h.text, wire.MaxAgentMessageBytes)
	in := buffered.Reader
	early, _ := in.Peek(in.Buffered()) // so much is there
	h.guard.early = slices.Clone(early)
	h.guard.library = bufio.NewReaderSize(h.guard, libraryBuffer)
	return h.guard, bufio.NewReadWriter(h.guard.library, bufio.NewWriterSize(h.guard, libraryBuffer)), nil
}
