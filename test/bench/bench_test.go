package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/stats"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

func TestBesideRow(t *testing.T) {
	row := besideRow("heartbeats", "heartbeats", map[drill.Kind][]float64{drill.Session: {60, 64, 1000}, drill.Raw: {100, 90, 110}, drill.OpAMP: {74}},
		func(r []float64) (float64, string) { return stats.Median(r), "%.0f" })
	if row.Value != "64" || row.Beside != "100 raw" || math.Abs(row.Ratio-0.64) > 1e-9 || row.Notes[0] != "opamp-go's server: 74, 0.74× raw" {
		t.Errorf("%+v", row)
	}
}

func TestReconnectRow(t *testing.T) {
	row := reconnectRow([]float64{400, 410, 9000}, []float64{160, 164, 170}, []float64{300, 328, 340}, 900)
	if row.Value != "164 µs" || row.Beside != "410 µs full" || math.Abs(row.Ratio-0.4) > 1e-9 || row.Goal.Missed() || !strings.Contains(row.Notes[1], "328 µs, of which resumed is 0.50") {
		t.Errorf("%+v", row)
	}
}

func TestDownloadRows(t *testing.T) {
	d := download{quiet: []float64{2, 1, 9}, busy: []float64{5, 3, 50}, rates: []float64{30e6, 35e6, 36e6}, took: []float64{20, 21, 80}}
	rows := d.rows(9)
	if beats := rows[0]; beats.Value != "5.0 ms" || beats.Beside != "2.0 ms in peace" || !beats.Goal.Missed() || !strings.Contains(beats.Notes[0], "after 21 s") {
		t.Errorf("%+v", beats)
	}
	if rate := rows[1]; rate.Value != "35 MB" || rate.Goal.Missed() {
		t.Errorf("%+v", rate)
	}
}

func TestHottest(t *testing.T) {
	const top = `File: rollcall-gateway
Type: cpu
      flat  flat%   sum%        cum   cum%
     1.16s 46.03% 46.03%      1.16s 46.03%  internal/runtime/syscall/linux.Syscall6
     0.15s  5.95% 51.98%      0.47s 18.65%  runtime.selectgo
     0.01s   0.4% 52.38%      0.06s  2.38%  crypto/tls.(*Conn).ConnectionState (inline)
`
	want := []string{"internal/runtime/syscall/linux.Syscall6 46.03%", "runtime.selectgo 5.95%", "crypto/tls.(*Conn).ConnectionState (inline) 0.4%"}
	if diff := cmp.Diff(want, hottest(top, 5)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := hottest(top, 1); len(got) != 1 {
		t.Errorf("asked for one: %v", got)
	}
	if got := hottest("no profile", 3); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestConclude(t *testing.T) {
	rows := []table.Row{{Goal: table.AtMost(1, 2, "")}, {Goal: table.AtLeast(1, 2, "")}, {}, {Goal: table.AtMost(0, 0, "")}}
	if got := conclude(rows, 90*time.Second); got != "2 of 3 goals met, in 90 s" {
		t.Error(got)
	}
}

func TestOrderOfMeasures(t *testing.T) {
	if all := wanted(nil); len(all) != len(measures) || mayEnrol(all) {
		t.Errorf("the first of all is measured while agents enrol, or there are %d", len(all))
	}
	enrolling := false
	for all := wanted(nil); len(all) > 0; all = all[1:] {
		if enrolling = enrolling || mayEnrol(all); enrolling && all[0].needs == alone {
			t.Errorf("%s is measured while agents enrol", all[0].key)
		}
	}
	if !enrolling {
		t.Error("no agents enrol beside the first measures")
	}
	some := wanted([]string{"attack", "writes"})
	if len(some) != 2 || some[0].key != "writes" || !mayEnrol(some) || mayEnrol(some[1:]) {
		t.Errorf("%+v", some)
	}
	if mayEnrol(wanted([]string{"writes", "agent"})) {
		t.Error("agents enrol that nobody needs")
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--rows=memory,attack", "--n=1000"})
	if err != nil || len(o.rows) != 2 || o.agents != 1000 {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse([]string{"--rows="}); err != nil || len(o.rows) != 0 {
		t.Errorf("all rows: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"--rows=speed"}, {"--n=5"}, {"--n=100000"}, {"memory"}, {"--rows=memory", "--doc=x"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%v: %+v", args, o)
		}
	}
}
