//! `test_expiration.py`. The device's clock is the machine's: what has expired was made so.

use lucid_updated::trust::Refused;

use crate::support::world::World;

#[tokio::test]
async fn root_that_has_expired_is_kept_and_holds_the_rest_up() {
    let mut world = World::new();
    world.good().await;
    world.rotate(2, &[]);
    world.good().await;
    world.maker.days[3] = -1;
    world.rotate(3, &[]);
    world.maker.advance();
    world.maker.publish(&world.site);
    assert_eq!(world.refused().await, Refused::Expired { role: "root" });
    assert_eq!(world.kept(), [3, 1, 1]);
}

#[tokio::test]
async fn metadata_that_has_expired_is_not_kept() {
    for (at, role, kept) in
        [(2, "timestamp", [0, 1, 1]), (1, "snapshot", [0, 2, 1]), (0, "list of targets", [0, 2, 2])]
    {
        let mut world = World::new();
        world.good().await;
        world.maker.days[at] = -5;
        world.maker.advance();
        world.maker.publish(&world.site);
        assert_eq!(world.refused().await, Refused::Expired { role });
        assert_eq!(world.kept(), kept, "{role}");
    }
}

#[tokio::test]
async fn known_root_that_has_expired_leads_to_the_next() {
    let mut world = World::new();
    world.maker.days[3] = -11;
    let known = world.maker.root(2, &[]);
    world.memory.roots = vec![known.clone()];
    world.site.put("metadata/2.root.json", known);
    world.maker.days[3] = 3;
    world.rotate(3, &[]);
    world.good().await;
    assert_eq!(world.kept(), [3, 1, 1]);
}

#[tokio::test]
async fn known_timestamp_that_has_expired_is_followed_by_the_next() {
    let mut world = World::new();
    world.maker.days[2] = -11;
    world.maker.publish(&world.site);
    world.memory.timestamp = Some(world.site.get("metadata/timestamp.json"));
    world.memory.snapshot = Some(world.site.get("metadata/1.snapshot.json"));
    world.maker.days[2] = 3;
    world.maker.advance();
    world.maker.publish(&world.site);
    world.good().await;
    assert_eq!(world.kept(), [0, 2, 2]);
}
