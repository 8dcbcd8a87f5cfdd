package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	psnet "github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"
)

// Ports lie below the range that the kernel gives to outgoing connections
// (32768 and up on Linux, 49152 on macOS): one of those could sit on the API
// server's port while it is stopped.
const lowestPort, portCount = 20000, 12000

// ports of one cluster, kept with its state so that kubeconfigs stay valid.
type ports struct {
	APIServer int `json:"apiServer"`
	Etcd      int `json:"etcd"`
}

// loadPorts reads the cluster's ports and makes sure that they are free. A new
// cluster gets free ones.
func loadPorts(state string) (ports, error) {
	var p ports
	path := filepath.Join(state, "ports.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if p.APIServer, err = FreePort(); err == nil {
			p.Etcd, err = FreePort()
		}
		if err == nil {
			text, err = json.Marshal(p)
		}
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
	} else if err == nil {
		if err = json.Unmarshal(text, &p); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		return ports{}, err
	}
	return p, errors.Join(
		checkFree("kube-apiserver", p.APIServer, state),
		checkFree("etcd", p.Etcd, state))
}

func checkFree(name string, port int, state string) error {
	if listenable(port) {
		return nil
	}
	return fmt.Errorf("port %d on 127.0.0.1, which %s of the cluster in %s uses, is taken by %s: end that, or remove the directory to begin with a new cluster",
		port, name, state, listener(port))
}

func listenable(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// FreePort is a port of 127.0.0.1 that nobody listens on and that the kernel gives to no outgoing connection.
// Another program could listen on it in between, at one chance in thousands; whoever listens on it then says so.
func FreePort() (int, error) {
	for range 100 {
		if port := lowestPort + rand.IntN(portCount); listenable(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 from %d to %d", lowestPort, lowestPort+portCount-1)
}

// listener says which process listens on port, as far as this user may see.
func listener(port int) string {
	connections, _ := psnet.Connections("tcp")
	for _, c := range connections {
		if int(c.Laddr.Port) != port || c.Status != "LISTEN" || c.Pid == 0 {
			continue
		}
		name, err := (&process.Process{Pid: c.Pid}).Name()
		if err != nil {
			name = "unknown"
		}
		return fmt.Sprintf("process %d (%s)", c.Pid, name)
	}
	return "another process"
}
