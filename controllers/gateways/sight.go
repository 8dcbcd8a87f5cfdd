package gateways

import "time"

// sight is what was seen of the gateways, by looking at their Leases again and again.
//
// All that counts is whether a Lease differs from the look before: then its gateway was alive after that look began. Nothing is made of the
// time inside a Lease, which is another machine's, and nothing of a look that failed: for what happened before a look there is the look
// after it alone. So an API server that was away, a watch cache that lags, and a past that this process has not seen need no rules.
type sight struct {
	// patience is how far apart two signs of life may be for a gateway to have been there in between.
	patience time.Duration
	// from and to are the newest stretch of time without a break in which some gateway was alive; zero before there was a sign of life.
	from, to time.Time
	// looked is when the last good look began, answering when the first of an unbroken series of good looks did.
	looked, answering time.Time
	// leases are those that are there, and the absent ones that somebody has asked about.
	leases map[string]lease
}

// lease is what was seen of one Lease.
type lease struct {
	// version is empty while the Lease is absent.
	version string
	// since is when this version was seen first.
	since time.Time
	// renewed tells whether another was seen before it, or none at all: then a gateway has written it since. What the first look finds may
	// have been there for long.
	renewed bool
	// asked tells whether some session is said to be this gateway's.
	asked bool
}

// look takes in the versions of the Leases, by name, as a look that began at start has found them; all tells whether there are no others.
func (s *sight) look(start time.Time, versions map[string]string, all bool) {
	before, first := s.looked, s.looked.IsZero()
	if first || start.Sub(before) > s.patience || start.Before(before) {
		s.answering = start
	}
	s.looked = start
	seen, sign := make(map[string]lease, len(versions)), false
	for name, version := range versions {
		l, known := s.leases[name]
		if !known || l.version != version {
			l.version, l.since, l.renewed = version, start, !first
			sign = sign || l.renewed
		}
		seen[name] = l
	}
	for name, l := range s.leases {
		if _, there := versions[name]; there || all && !l.asked {
			continue
		}
		if all && l.version != "" {
			l.version, l.since, l.renewed = "", start, false
		}
		seen[name] = l
	}
	s.leases = seen
	if sign {
		s.sign(before)
	}
}

// sign notes that a gateway was alive at some time after at.
func (s *sight) sign(at time.Time) {
	if s.to.IsZero() || at.Sub(s.to) > s.patience || at.Before(s.from) { // the last: the clock was set back
		s.from = at
	}
	s.to = at
}

// missing is since when the API server has answered without a break, and shown no sign of life; zero if it does not answer, or there was one.
func (s *sight) missing(now time.Time) time.Time {
	since := later(s.answering, s.to)
	if now.Sub(s.looked) > s.patience || s.looked.Sub(since) <= s.patience {
		return time.Time{}
	}
	return since
}

// silence is for how long a Lease has stayed the same, or absent, while the API server answered.
func (s *sight) silence(name string, now time.Time) time.Duration {
	return now.Sub(later(s.leases[name].since, s.answering))
}

// untilGone is how long a gateway still has, if it stays silent and the API server answers, until it has been silent for grace. A name that
// was never seen has that long from when it is asked about first: a gateway makes its Lease before it speaks to anybody.
func (s *sight) untilGone(name string, now time.Time, grace time.Duration) time.Duration {
	l, known := s.leases[name]
	if !known {
		l.since = now
	}
	l.asked = true
	if s.leases == nil {
		s.leases = map[string]lease{}
	}
	s.leases[name] = l
	if s.looked.IsZero() || now.Sub(s.looked) > s.patience {
		return grace
	}
	return min(grace, max(0, grace-s.silence(name, now)))
}

// found takes in what a look at one Lease alone has found, and tells whether it is as it was.
func (s *sight) found(start time.Time, name, version string) (same bool) {
	l := s.leases[name]
	if l.version == version {
		return true
	}
	l.version, l.since, l.renewed = version, start, version != ""
	s.leases[name] = l
	return false
}

// forget lets go of Leases that were absent for longer than kept. Who asks again begins anew.
func (s *sight) forget(now time.Time, kept time.Duration) {
	for name, l := range s.leases {
		if l.version == "" && now.Sub(l.since) > kept {
			delete(s.leases, name)
		}
	}
}

// alive counts the gateways that are.
func (s *sight) alive(now time.Time) (n int) {
	for _, l := range s.leases {
		if l.renewed && now.Sub(l.since) <= s.patience {
			n++
		}
	}
	return n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
