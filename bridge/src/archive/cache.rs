//! Objects that were read lately, within a number of bytes. Objects never change, so that nothing here grows old.

use std::sync::Arc;

use lru::LruCache;

use super::Opened;

#[derive(Debug)]
pub(super) struct Cache {
    objects: LruCache<String, Arc<Opened>>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Cache {
            objects: LruCache::unbounded(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn get(&mut self, object: &str) -> Option<Arc<Opened>> {
        self.objects.get(object).cloned()
    }

    /// Adds an object, for which those make room that were not asked for for the longest time.
    pub(super) fn add(&mut self, object: &str, opened: Arc<Opened>) {
        self.bytes += opened.bytes;
        if let Some((_, before)) = self.objects.push(object.to_owned(), opened) {
            self.bytes -= before.bytes;
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.objects.pop_lru() else {
                break;
            };
            self.bytes -= oldest.bytes;
        }
    }

    pub(super) fn remove(&mut self, object: &str) {
        if let Some(opened) = self.objects.pop(object) {
            self.bytes -= opened.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let opened = |bytes| {
            Arc::new(Opened {
                run: Default::default(),
                bytes,
            })
        };
        let mut cache = Cache::new(100);
        for name in ["a", "b", "c"] {
            cache.add(name, opened(30));
        }
        assert!(cache.get("a").is_some());
        cache.add("d", opened(40));
        assert!(cache.get("b").is_none());
        cache.add("d", opened(35));
        assert_eq!(cache.bytes, 95, "the same once more counts once");
        cache.remove("c");
        cache.remove("c");
        assert_eq!(cache.bytes, 65);
        cache.add("huge", opened(101));
        assert_eq!((cache.bytes, cache.objects.len()), (0, 0));
    }
}
