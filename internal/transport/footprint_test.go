package transport

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// footprint is set in a process that serves, and whose memory is therefore its own: to websocket, or to echo, which is crypto/tls with one
// goroutine for each connection and nothing else.
const footprint = "ROLLCALL_TEST_FOOTPRINT"

// BenchmarkIdleSession tells what a session keeps resident in a gateway, in KB of 1000 bytes, and what the same connection costs without HTTP
// and websocket. Each has sent one message and is silent. Their ratio is what counts: both figures move with the machine.
func BenchmarkIdleSession(b *testing.B) {
	const sessions = 2000
	for b.Loop() {
		var kb [2]float64
		for i, kind := range []string{"websocket", "echo"} {
			kb[i] = residentEach(b, kind, sessions)
			b.ReportMetric(kb[i], "KB/"+kind)
		}
		b.ReportMetric(kb[0]/kb[1], "ratio")
	}
}

// residentEach is what each of n connections adds to the memory of a process.
func residentEach(b *testing.B, kind string, n int) float64 {
	b.Helper()
	server := exec.CommandContext(b.Context(), os.Args[0])
	server.Env = append(os.Environ(), footprint+"="+kind)
	server.Stderr = os.Stderr
	ask, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = ask.Close()
		_ = server.Wait()
	}()
	said := bufio.NewScanner(out)
	line := func() string {
		if !said.Scan() {
			b.Fatalf("the server of kind %s is gone: %v", kind, said.Err())
		}
		return said.Text()
	}
	resident := func() float64 {
		_, _ = io.WriteString(ask, "\n")
		kb, err := strconv.ParseFloat(line(), 64)
		if err != nil {
			b.Fatal(err)
		}
		return kb
	}
	addr := line()
	agent := certificate("agent")
	open := func() net.Conn {
		c, err := speak(addr, kind, agent)
		if err != nil {
			b.Fatalf("%s: %v", kind, err)
		}
		return c
	}
	defer open().Close() // what is made once is no connection's
	empty := resident()
	for range n {
		defer open().Close()
	}
	return (resident() - empty) / float64(n)
}

// speak connects as an agent does, and exchanges one message of a heartbeat's size.
func speak(addr, kind string, agent tls.Certificate) (net.Conn, error) {
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{agent}})
	if err != nil {
		return nil, err
	}
	beat := strings.Repeat("b", 600)
	request, answer := []byte(beat), []byte(beat)
	if kind == "websocket" {
		_, err = io.WriteString(c, "GET "+wire.PathSession+" HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			wire.HeaderAgentVersion+": 8.0.0\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: "+wire.Subprotocol+"\r\n\r\n")
		if err != nil {
			return nil, err
		}
		request, answer = client(fin|opBinary, beat), bytesOf(fin|opBinary, false, beat)
		in := bufio.NewReaderSize(c, 16)
		for line := "-"; line != "\r\n" && err == nil; {
			line, err = in.ReadString('\n')
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(c, answer)
	return c, err
}

// serveFootprint is the process that is measured: a line on its input asks for its memory, and the end of it for its own.
func serveFootprint(kind string) {
	serving := certificate("gateway")
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr()) //nolint:forbidigo // that is how it is found
	if kind == "websocket" {
		s := listen.New(listen.Config{
			Log:         logr.Discard(),
			Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil },
			Welcome: func(state *tls.ConnectionState, peer *listen.Peer) http.Handler {
				serial := state.PeerCertificates[0].SerialNumber.String() + strconv.Itoa(runtime.NumGoroutine())
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					peer.Vouch(serial)
					if c, problem := Accept(w, r); problem == nil {
						peer.Hand(func() bool {
							m, err := c.Read()
							if err != nil {
								c.CloseNow()
							}
							return err == nil && c.Write(m) == nil
						})
					}
				})
			},
		})
		go func() { _ = s.Serve(l) }()
	} else {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{serving}, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { // as small as it gets: it waits without a buffer
					b := buffers.Get().(*[]byte)
					n, _ := c.Read((*b)[:cap(*b)])
					_, _ = c.Write((*b)[:n])
					buffers.Put(b)
					_, _ = c.Read(make([]byte, 1))
				}()
			}
		}()
	}
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		for range 6 {
			runtime.GC()
			<-time.After(50 * time.Millisecond) // timers, pools and finalizers of what is over
			debug.FreeOSMemory()
		}
		fmt.Println(residentKB()) //nolint:forbidigo // likewise
	}
}

// residentKB is the memory of this process, in 1000 bytes.
func residentKB() float64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		panic(err)
	}
	return float64(pages*os.Getpagesize()) / 1000
}

func certificate(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
