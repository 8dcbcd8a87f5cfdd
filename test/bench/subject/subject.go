// Package subject is what the servers have in common that the gateway is measured beside: its TLS, and how they are asked to collect.
package subject

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// Options of a server, from its command line.
type Options struct {
	// TLS is that of the gateway's port for agents, with the certificate that was named.
	TLS *tls.Config
	// Reply is how many bytes an answer has.
	Reply int
}

// Parse reads the command line.
func Parse() (*Options, error) {
	cert := flag.String("cert", "", "file with the server's certificate")
	key := flag.String("key", "", "file with its key")
	reply := flag.Int("reply", 700, "bytes of an answer")
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return nil, fmt.Errorf("load the server's certificate: %w", err)
	}
	return &Options{TLS: config(pair), Reply: *reply}, nil
}

// config is TLS as the gateway has it: docs/protocol.md, and internal/gateway/listen.
func config(pair tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		NextProtos:       []string{"http/1.1"},
		ClientAuth:       tls.RequireAnyClientCert,
		Certificates:     []tls.Certificate{pair},
	}
}

// Announce tells the bench where the server listens.
func Announce(out io.Writer, address string) { fmt.Fprintln(out, address) }

// Collected begins the line that a server logs after it has collected: bytes of objects, of the parts of the heap that they are in, and of stacks.
const Collected = "collected: "

// CollectOnSignal gives back what is not in use whenever SIGUSR1 comes, as the gateway does that is built for the bench. A collection halves
// a stack at most, and takes two to empty a pool.
func CollectOnSignal() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			for range 5 {
				runtime.GC()
			}
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Fprintf(os.Stderr, "%s%d %d %d\n", Collected, m.HeapAlloc, m.HeapInuse, m.StackInuse)
		}
	}()
}
