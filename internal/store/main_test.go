package store

import (
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"

	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func testLog(t testing.TB) logr.Logger {
	return testr.NewWithInterface(t, testr.Options{Verbosity: 1})
}
