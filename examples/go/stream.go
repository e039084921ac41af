package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

const (
	firstPause   = 50 * time.Millisecond // before the stream is opened again
	longestPause = 500 * time.Millisecond
)

// Event is a line of the stream.
type Event struct {
	Event    string   `json:"event"`
	Session  string   `json:"session"`
	Epoch    int64    `json:"epoch"`
	Sessions []string `json:"sessions"`
	Reason   string   `json:"reason"`
	Heir     string   `json:"heir"`
	Ping     int64    `json:"ping"`
	TrustMS  int64    `json:"trust_ms"`
	AloneMS  int64    `json:"alone_ms"`
	Draining bool     `json:"draining"`
	MaySpeak bool     `json:"may_speak"`
}

// register makes this process known under its name, however long it takes.
func (w *Worker) register() {
	w.Lock()
	known := w.instance != "" && !w.over
	w.Unlock()
	for !known {
		asked := map[string]any{"name": w.name, "capacity": w.capacity, "lets_go": true}
		if w.pool != "" {
			asked["pool"] = w.pool
		}
		answer := w.ask("register", "POST", "/v1/workers", 0, asked)
		if known = answer.done() && answer.Instance != "" && answer.WorkerToken != ""; known {
			w.Lock()
			w.instance, w.token, w.over = answer.Instance, answer.WorkerToken, false
			w.trust.forget()
			w.Unlock()
			tell("registered", fields{"instance": answer.Instance})
		} else {
			time.Sleep(answer.pause)
		}
	}
}

// answerPing is the proof that this process turns over; the answer to it says for how long it may be trusted.
func (w *Worker) answerPing(instance string, ping int64) {
	answer := w.ask("alive", "POST", "/v1/workers/"+url.PathEscape(instance)+"/alive", 0, map[string]any{"ping": ping})
	w.Lock()
	defer w.Unlock()
	w.answering = false
	switch answer.status {
	case http.StatusGone:
		w.loseAll(answer.Detail, instance)
	case http.StatusNotFound, http.StatusUnauthorized:
		w.again() // the stream is to be opened again
	}
}

// take is for one event. What is not known, or not whole, is left alone.
func (w *Worker) take(event Event, asked time.Duration) {
	w.Lock()
	defer w.Unlock()
	switch event.Event {
	case "hello":
		w.attached, w.refused = true, map[string]map[int]bool{}
		tell("attached", fields{"instance": w.instance, "sessions": event.Sessions})
		w.trust.draining = event.Draining
		w.trust.answered(asked, event.TrustMS, event.AloneMS)
		w.compare()
	case "ping":
		if !w.answering { // else another is being answered, which will do
			w.answering = true
			go w.answerPing(w.instance, event.Ping)
		}
	case "held", "in_doubt":
		w.trust.inDoubt = event.Event == "in_doubt"
		w.trust.goOn = w.trust.inDoubt && event.MaySpeak
	case "ended":
		w.loseAll(event.Reason, w.instance)
	case "drain", "joined", "overflow", "replaced":
		tell(event.Event, fields{})
		w.trust.notAlone(event.Event == "drain")
		w.compare()
	case "offer":
		go w.adopt(event.Session)
	case "lost":
		w.lose(event.Session, event.Reason, event.Epoch, 0)
	case "letting_go":
		call := w.lose(event.Session, "handed over to "+event.Heir, event.Epoch, letGoIn)
		go w.letGo(event.Session, event.Epoch, call)
	case "renewed":
		for _, call := range []*Call{w.calls[event.Session], w.ending[event.Session]} {
			if call != nil && call.epoch < event.Epoch {
				call.epoch = event.Epoch
			}
		}
	}
}

// attend opens the stream and reads it until it ends; it returns how long to wait before it is opened again.
func (w *Worker) attend() time.Duration {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	w.Lock()
	instance := w.instance
	w.again = end
	w.Unlock()
	silent := time.AfterFunc(silence, end)
	defer silent.Stop()
	asked := now()
	found, err := w.request(ctx, "GET", "/v1/workers/"+url.PathEscape(instance)+"/events", 0, nil)
	if err != nil || found.StatusCode != http.StatusOK {
		answer := read(asked, found, err)
		w.Lock()
		defer w.Unlock()
		w.note("stream", answer)
		switch answer.status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
			w.loseAll(answer.Detail, instance)
		case 0:
			return 0
		}
		return answer.pause
	}
	defer found.Body.Close()
	for lines := bufio.NewReader(found.Body); err == nil; {
		var line []byte
		if line, err = lines.ReadBytes('\n'); err == nil {
			silent.Reset(silence)
			var event Event
			if json.Unmarshal(line, &event) == nil {
				w.take(event, asked)
			}
		}
	}
	w.Lock()
	defer w.Unlock()
	if w.attached {
		w.attached, w.detachedAt = false, now()
		w.tellStanding("detached", fields{"reason": err.Error()})
	} else {
		w.note("stream", read(asked, nil, err))
	}
	return 0
}

// Live is one instance after the other, each until it is over.
func (w *Worker) Live() {
	w.register()
	close(w.registered)
	for pause := firstPause; ; {
		began := now()
		wait := w.attend()
		if pause *= 2; pause > longestPause {
			pause = longestPause
		}
		if now() > began+time.Second {
			pause = firstPause
		}
		w.Lock()
		over := w.over
		w.Unlock()
		if !over {
			time.Sleep(later(pause, wait))
		}
		w.register()
	}
}
